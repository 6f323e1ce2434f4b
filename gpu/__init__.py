"""Memory and devices: the slabs that bodies live in, what devices there are, and how rows reach them."""

from ..version import __version__ as __version__
from .devices import Device as Device
from .devices import cuda_problem as cuda_problem
from .devices import discover as discover
from .pinned import pin_problem as pin_problem
from .slab import PAGE as PAGE
from .slab import Slab as Slab
from .slab import SlabPool as SlabPool
from .slab import shared_memory as shared_memory
