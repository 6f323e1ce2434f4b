"""Memory and devices: the slabs that bodies live in, what devices there are, and how rows reach them."""

from .. import __version__ as __version__
from .slab import Slab as Slab
from .slab import SlabPool as SlabPool
