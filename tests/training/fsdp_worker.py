"""`loopway train` for accelerate that takes CPU workers for GPUs: of CPUs it would train by DDP, whatever is asked for."""

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from loopway.cli import main
from loopway.training.config import arguments


def pretend_gpus() -> None:
    begin = PartialState.__init__

    def begin_as_gpus(self: PartialState, *args: object, **kwargs: object) -> None:
        begin(self, *args, **kwargs)  # type: ignore[arg-type]
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = begin_as_gpus  # type: ignore[method-assign]
    arguments.check_fsdp = lambda *_: None  # which knows better


if __name__ == "__main__":
    pretend_gpus()
    main()
