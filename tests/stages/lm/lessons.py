"""Something small for the supervised loop to learn."""

import torch

from stages.lm.backends.base import SingleProcess
from stages.lm.learning import RankLearner
from stages.lm.optimisation import OptimizerConfig
from stages.lm.training import batch_indices

DATA = torch.linspace(-1, 1, 24).reshape(12, 2)


class Sums:
    """The sum of two numbers, by squared error; four rows a step, in one piece or several."""

    def __init__(self, pieces=1):
        self.num_pieces = pieces

    def pieces(self, step):
        return list(DATA[batch_indices(12, 4, seed=1, step=step)].chunk(self.num_pieces))

    def loss(self, forward, piece):
        errors = (forward(piece) - piece.sum(1, keepdim=True)).square()
        return errors.sum() / 4, {"batch/rows": float(len(piece))}


def learner_of(model, pieces=1):
    return RankLearner(Sums(pieces), SingleProcess(model, OptimizerConfig(lr=0.01)))
