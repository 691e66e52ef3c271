"""The settings of a trial: which go together, what each means, and which trials make a trajectory."""

from dataclasses import fields

import pytest

from job.folder.grid import GridError, parse_grid
from job.folder.groups import trajectories
from job.record import Row
from job.trial import ImageOptions, Trial


@pytest.mark.parametrize(("line", "message"), [
    ("model,weights\nmlp,imagenet",
     "column weights: weights is imagenet, but model mlp has no such weights; set weights to none"),
    ("model\nmlp", "column weights: weights is imagenet, but model mlp has no such weights"),
    ("image_size\n16", "column image_size: image_size is 16; the least for model resnet18 is 33"),
    ("train_size\n32", "column train_size: train_size is 32; the least for model resnet18 is 33"),
    ("image_size,train_size\n64,65", "column train_size: train_size is 65; the most is image_size, 64"),
    ("model,weights,train_size\nmlp,none,64", "column train_size: train_size has no effect when model is mlp"),
    ("model,weights,image_size,train_size\nvit_b_16,none,64,32", "train_size has no effect when model is vit_b_16"),
    ("model\nresnet5", "column model: model is 'resnet5', which is neither mlp nor a classifier of torchvision; do you "
     "mean resnet50 or"),
    ("model\nzzz", "column model: model is 'zzz', which is neither mlp nor a classifier of torchvision; docs/grid.md"),
    ("model\ninception_v3", "column model: model is inception_v3, which is trained with auxiliary heads"),
    ("model,image_size\nvgg11,31", "column image_size: image_size is 31; the least for model vgg11 is 32"),
    ("model,weights,image_size\nvit_b_32,none,250", "vit_b_32 takes multiples of 32, here 224 or 256"),
    ("model,weights,image_size\nvit_b_16,none,8", "image_size is 8; vit_b_16 takes multiples of 16, here 16"),
    ("model,image_size\nmaxvit_t,256", "image_size is 256; maxvit_t takes multiples of 224, here 224 or 448"),
    ("model,image_size\nvit_b_16,240", "image_size is 240; the ImageNet weights of vit_b_16 fit 224 alone: set that"),
    ("model,weights,stem\nvgg11,none,small", "column stem: stem has no effect when model is vgg11; leave it out, or "
     "set model to resnet18 or"),
    ("stem,image_size\nsmall,32", "column weights: weights is imagenet, and its first layer does not fit stem small"),
    ("stem,weights,image_size\nsmall,none,8", "image_size is 8; the least for model resnet18 with stem small is 9"),
    ("batch_norm\nyes", "column batch_norm: batch_norm has no effect when model is resnet18"),
    ("model,weights,freeze\nmlp,w.pt,yes", "column freeze: freeze has no effect when model is mlp"),
    ("weights,freeze\nnone,yes", "column freeze: freeze is yes, but weights is none"),
    ("stop_patience\n5", "column stop_patience: stop_patience has no effect when stop_monitor is none"),
    ("optimizer,momentum\nadam,0.5", "column momentum: momentum has no effect when optimizer is adam"),
    ("schedule,gamma\ncosine,0.5", "column gamma: gamma has no effect when schedule is cosine"),
    ("hidden\n10-5", "column hidden: hidden has no effect when model is resnet18"),
    ("epochs,warmup\n3,3", "column warmup: warmup is 3; it must be less than epochs"),
    ("model,weights,batch_norm,batch_size\nmlp,none,yes,1", "column batch_size: batch_size is 1; batch_norm needs 2"),
    ("model,weights,hidden\nmlp,none,100x50", "column hidden: hidden is '100x50'"),
    ("model,weights,hidden\nmlp,none,99999-99999", "column hidden: hidden is '99999-99999': with image_size 224 "
     "these are 25,052,649,471 parameters, and the most is 1,000,000,000"),
    ("model,weights,image_size,hidden\nmlp,none,1024,400", "column hidden: hidden is '400': with image_size 1024"),
    ("model,weights,hidden\nmlp,none,1" + "-1" * 100, "column hidden: hidden is '1-1-1"),
    ("fold,folds\n4,3", "column fold: fold is 4, but folds is 3; give a fold from 1 to 3, or more folds"),
    ("folds\n10", "column folds: folds is 10, which has no effect when fold is 0, the plain split; leave it out"),
    ("freeze\nmaybe", "column freeze: freeze is 'maybe'; give yes or no"),
    ("stop_monitor\naccuracy", "column stop_monitor: stop_monitor is 'accuracy'; give one of none, val_loss"),
])
def test_settings_that_do_not_go_together_name_their_column(line: str, message: str) -> None:
    with pytest.raises(GridError) as caught:
        parse_grid(line + "\n")
    assert message in str(caught.value)


def test_trial_and_row_share_no_field_so_that_a_row_can_be_flat() -> None:
    assert not {spec.name for spec in fields(Trial)} & {spec.name for spec in fields(Row)}


def test_every_field_has_a_help_text() -> None:
    for kind in (Trial, ImageOptions):
        assert all(spec.metadata["help"] for spec in fields(kind))


def test_trajectories_are_what_differs_in_epochs_alone_under_a_schedule_that_ignores_the_total() -> None:
    trials = [Trial(trial="a", epochs=9), Trial(trial="b", epochs=3), Trial(trial="c", epochs=3, lr=0.1),
              Trial(trial="d", epochs=3, schedule="cosine"), Trial(trial="e", epochs=5, schedule="cosine"),
              Trial(trial="f", epochs=5, seed=1), Trial(trial="g", epochs=3)]
    groups = [[trial.trial for trial in group] for group in trajectories(trials)]
    assert groups == [["b", "g", "a"], ["c"], ["d"], ["e"], ["f"]]
