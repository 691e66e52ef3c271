"""`import trialgrid` gives what `import job` does: the distribution's name, and the package's."""

import sys

import job

sys.modules[__name__] = job
