"""Training in this process: a small trial, its parts, and the whole loop."""

from torch import Tensor, nn

from job.data.batches import Batches
from job.data.load import load_batches
from job.data.pack import Passport
from job.folder.storage import Folder
from job.record import Epoch
from job.training.fit import fit
from job.training.machine import Machine, choose_machine
from job.training.model import build_model
from job.training.state import State, new_state
from job.trial import Trial

TRIAL = Trial(trial="1", lr=0.05, epochs=3, batch_size=8, image_size=40, weights="none", step_size=2)
MLP = Trial(trial="1", model="mlp", weights="none", image_size=16, batch_size=8, epochs=2)
PACK = "p" * 64


def begin(packed: tuple[Folder, Passport], trial: Trial = TRIAL) -> tuple[Machine, Batches, State]:
    """Return what the loop needs: the machine, the batches of a pack, and the state before the first step."""
    machine = choose_machine(trial.precision)
    batches = load_batches(*packed, trial, machine.device)
    return machine, batches, new_state(trial, build_model(trial, 2, None, machine), machine, "then")


def never(_step: int, _steps: int) -> bool:
    """Say that training is not to stop."""
    return False


def train(trial: Trial, batches: Batches) -> tuple[nn.Module, dict[str, Tensor], list[Epoch]]:
    """Return the trained model, its weights before training, and the epochs."""
    machine = choose_machine("fp32")
    model = build_model(trial, 2, None, machine)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = new_state(trial, model, machine, "then")
    return model, before, list(fit(trial, state, batches, machine, never))
