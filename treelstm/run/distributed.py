"""Several processes that train one run and give the bits of one, under torchrun's engine.

The first process (rank 0) is the run; the others take the same steps and write nothing. What is added up
is added in one fixed binary tree over the parts of a batch, whoever holds them, so that sums do not
depend on the number of processes.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, TCPStore

from treelstm import night
from treelstm.config import Config, ConfigError
from treelstm.errors import UserError
from treelstm.process import lack_of_gpus
from treelstm.signals import stop_signals
from treelstm.trees.arrays import Array

T = TypeVar("T")
Tensors = tuple[Tensor, ...]

_PATIENCE = timedelta(days=7)  # with one that compiles or commits; a lost one shows at once
_ENDED = "ended"  # in the store: the error with which a process has left
_MANY = 10_000_000  # numbers that are worth keeping once a machine


class GroupLost(UserError):
    """Another process of the group has ended; what was committed is intact."""

    killed = False  # else it has said with which error


class ProcessesDiffer(UserError):
    """Two processes hold what should be the same and is not."""


def is_worker() -> bool:
    """Whether torchrun's engine has started this process."""
    return {"RANK", "TORCHELASTIC_RUN_ID"} <= os.environ.keys()


def is_first() -> bool:
    """Whether this process is the run: it alone writes, shows and tells anything."""
    return not is_worker() or os.environ["RANK"] == "0"


def goes_on(error: Exception) -> bool:
    """Whether torchrun's engine starts all processes again after this error."""
    if not isinstance(error, GroupLost) or not error.killed:
        return False
    return _number("TORCHELASTIC_RESTART_COUNT") < _number("TORCHELASTIC_MAX_RESTARTS")


def _number(name: str) -> int:
    return int(os.environ[name])


def require_startable(config: Config) -> None:
    """Raises ConfigError if these settings cannot be trained by so many processes, or started so."""
    processes = _number("WORLD_SIZE") if is_worker() else config.processes
    if processes > config.shards:
        raise ConfigError(
            f"{processes} processes for shards={config.shards}: each needs a part of every batch. Set "
            f"processes={config.shards} (torchrun: --nproc-per-node={config.shards}), or "
            f"shards={processes} in a new output_dir: other shards are other bits, so another run."
        )
    here = _number("LOCAL_WORLD_SIZE") if is_worker() else processes
    if lack := lack_of_gpus(config.device, here):
        raise ConfigError("{}. {}.".format(*lack))
    if not is_worker() or night.LAUNCH_DIR in os.environ or not _number("TORCHELASTIC_MAX_RESTARTS"):
        return
    if config.resume != "auto":
        raise ConfigError(
            f"resume is {config.resume!r}, and torchrun may start the processes again, which would then "
            'begin anew. Set resume="auto", or start torchrun with --max-restarts=0.'
        )
    if not _all_here() and os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True":
        # Then workers that are started again meet in the store of those before them, and hang.
        raise ConfigError(
            "on several machines, torchrun cannot start processes again as it was started. Type "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend=c10d ... on each, or start it "
            "with --max-restarts=0."
        )


def _all_here() -> bool:
    return os.environ["WORLD_SIZE"] == os.environ["LOCAL_WORLD_SIZE"]


@dataclass(frozen=True)
class Group:
    """The processes of a run, as one of them sees them; alone, it does at once what is asked."""

    rank: int = 0
    size: int = 1
    store: PrefixStore | None = None

    def first(self, value: T) -> T:
        """The first process' value, in every process; waits for it."""
        box = [value]
        if self.size > 1:
            with self._kept():
                dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def agree(self, *counts: float) -> list[float]:
        """The sum of each count over all processes, exact for whole numbers; waits for all of them."""
        if self.size == 1:
            return [*counts]
        sums = torch.tensor(counts, dtype=torch.float64)
        with self._kept():
            dist.all_reduce(sums)
        found: list[float] = sums.tolist()
        return found

    def require_same(self, value: object, what: str) -> None:
        """Raises ProcessesDiffer in every process unless all have the first one's value."""
        if self.size > 1 and self.agree(value != self.first(value))[0]:
            raise ProcessesDiffer(
                f"the {self.size} processes of this run have other {what}. Nothing more was committed. "
                "Train on machines with one kind of processor, the same versions and the same files."
            )

    def fill(self, out: Tensor, sizes: Sequence[int], rows: Callable[[int], Tensor]) -> None:
        """Fills `out`, which lies in parts of so many rows, with those of `rows`, each made once."""
        owners, parts = self._owners(len(sizes)), out.split([*sizes])
        for number, owner in enumerate(owners):
            if owner == self.rank:
                parts[number].copy_(rows(number))
        for owner, made in zip(owners, parts, strict=True) if self.size > 1 else ():
            with self._kept():
                dist.broadcast(made, src=owner)

    def add(self, parts: int, part: Callable[[int], Tensors]) -> Tensors:
        """The sum of all parts in every process, each made once; added in one fixed binary tree."""
        owners, own = self._owners(parts), dict[tuple[int, int], Tensors]()

        def total(low: int, high: int) -> Tensors:
            """Of the parts from `low` to `high`; empty if none of them is this process' own."""
            if self.rank not in owners[low:high] or (low, high) in own:
                return own.get((low, high), ())
            if high - low == 1:
                return part(low)
            middle = (low + high + 1) // 2
            sums = total(low, middle), total(middle, high)
            if owners[low] == owners[high - 1]:
                return _sum(*sums)
            return self._exchanged([*sums], ({*owners[low:middle]}, {*owners[middle:high]}))

        # What this process can add up alone comes before it waits for others.
        own |= {each: total(*each) for each in _of_one(owners, 0, parts) if owners[each[0]] == self.rank}
        return total(0, parts)

    def _exchanged(self, sums: list[Tensors], sides: tuple[set[int], set[int]]) -> Tensors:
        """The sum of two sides, whose processes hold their own side's: they send it to each other."""
        if self.size == 2:  # then torch's own sum, which is faster, is one addition too
            both = sums[0] or sums[1]
            with self._kept():
                for sent in [dist.all_reduce(tensor, async_op=True) for tensor in both]:
                    sent.wait()
            return both
        transfers = list[dist.P2POp]()
        for k in (0, 1):
            having = sorted(sides[k])
            for number, to in enumerate(sorted(sides[1 - k] - sides[k])):
                source = having[number % len(having)]
                if self.rank == source:
                    transfers += [dist.P2POp(dist.isend, tensor, to) for tensor in sums[k]]
                elif self.rank == to:
                    sums[k] = tuple(map(torch.empty_like, sums[1 - k]))
                    transfers += [dist.P2POp(dist.irecv, tensor, source) for tensor in sums[k]]
        with self._kept():
            for transfer in dist.batch_isend_irecv(transfers) if transfers else ():
                transfer.wait()
        return _sum(*sums)

    def once_a_machine(self, make: Callable[[], Array], numbers: int) -> Array:
        """What `make` gives: so many int64, of which a machine's processes share one copy if many."""
        open_files = Path(f"/proc/{os.getpid()}/fd")
        if self.size == 1 or numbers < _MANY or not open_files.is_dir():
            return make()
        machine, told = os.environ["GROUP_RANK"], [("", "")] * self.size
        # Without a name, so that it is gone with the last process, however that ends.
        with tempfile.TemporaryFile() as file:
            name = ""
            if os.environ["LOCAL_RANK"] == "0":
                make().tofile(file)
                file.flush()
                name = str(open_files / str(file.fileno()))
            with self._kept():
                dist.all_gather_object(told, (machine, name))
            path = next(path for where, path in told if path and where == machine)
            mapped: Array = np.memmap(path, np.int64, "r")
            self.agree(0)  # all have it open
        return mapped

    def makes(self, part: int, parts: int) -> bool:
        """Whether `add` has this process make that part."""
        return self._owners(parts)[part] == self.rank

    def _owners(self, parts: int) -> list[int]:
        """The process that makes each part: neighbours have neighbouring parts."""
        return [part * self.size // parts for part in range(parts)]

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Raises GroupLost where a call fails because another process has gone."""
        try:
            yield
        except RuntimeError as error:
            said = ""
            with suppress(RuntimeError):  # the store went with the first process
                if self.store and self.store.check([_ENDED]):
                    said = self.store.get(_ENDED).decode()
            killed = "it was killed, or cannot be reached. The last commit is intact. "
            killed += "If nothing starts the run again, start the same command."
            gone = GroupLost(f"another of the run's {self.size} processes has ended: {said or killed}")
            gone.killed = not said
            raise gone from error


def _of_one(owners: list[int], low: int, high: int) -> list[tuple[int, int]]:
    """The largest branches of the tree of which one process holds all parts."""
    if owners[low] == owners[high - 1]:
        return [(low, high)]
    middle = (low + high + 1) // 2
    return _of_one(owners, low, middle) + _of_one(owners, middle, high)


def _sum(left: Tensors, right: Tensors) -> Tensors:
    return tuple(a.add_(b) for a, b in zip(left, right, strict=True))


ALONE = Group()
_joined = ALONE


@contextmanager
def joined() -> Iterator[Group]:
    """The group of this process, to the end of the block; inside another such block, the same one.

    An error that ends the block reaches the other processes as the text of their GroupLost.
    """
    global _joined
    if _joined is not ALONE or not is_worker() or _number("WORLD_SIZE") == 1:
        yield _joined
        return
    if night.followed is None:  # a script of the user's, under torchrun
        night.watch_parent(os.getppid())
    with stop_signals(signal.SIG_DFL):  # Python's own could not act while torch waits
        _joined = group = _join()
        try:
            yield group
            group.agree(0)  # the first process may still be writing; a worker that ends could end it
        except Exception as error:
            if not isinstance(error, GroupLost) and group.store:
                with suppress(RuntimeError):  # the store went with the first process
                    group.store.set(_ENDED, f"{type(error).__name__}: {error}")
            raise
        finally:
            _joined = ALONE
            dist.destroy_process_group()


def _join() -> Group:
    rank, size, host, backend = _number("RANK"), _number("WORLD_SIZE"), os.environ["MASTER_ADDR"], "gloo"
    if _all_here():  # whatever this machine is called, and with or without a network
        host = "localhost"
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
    of_agent = os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True"
    serves = rank == 0 and not of_agent
    with Group(rank, size)._kept():
        server = TCPStore(host, _number("MASTER_PORT"), None, serves, _PATIENCE, multi_tenant=True)
        # The agent's store outlives a restart, with the addresses of the workers before it.
        store = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"] if of_agent else "", server)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    return Group(rank, size, store)
