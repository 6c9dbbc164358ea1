"""MeSH with other initial routers, for readings.yaml: a plugin that registers `mesh-zero`, `mesh-wide` and `mesh-chain`.

Knows nothing of what the routers do later.
"""

from torch import nn

import loopway
from loopway.recurrence.mesh import MeSH


class ZeroRouters(MeSH):
    """Every slot is written and read alike, for every token."""

    def reset_parameters(self) -> None:
        for router in (*self.write_routers, *self.read_routers):
            for parameter in router.parameters():
                nn.init.zeros_(parameter)


class WideRouters(MeSH):
    """Ten times the weights' standard deviation: tokens differ in their routes from the start."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for router in (*self.write_routers, *self.read_routers):
            nn.init.normal_(router.get_parameter("weight"), std=10 * self.initializer_range)


class ChainedRouters(MeSH):
    """Close to base recursion: each boundary writes its own slot and reads it back, with weights of 0.93 of five slots."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for routers in (self.write_routers, self.read_routers):
            for boundary, router in enumerate(routers):
                own = (boundary + 1) % self.num_slots
                nn.init.constant_(router.get_parameter("bias")[own : own + 1], 4.0)


for name, recurrence in (("zero", ZeroRouters), ("wide", WideRouters), ("chain", ChainedRouters)):
    loopway.register_recurrence(f"mesh-{name}", recurrence)
