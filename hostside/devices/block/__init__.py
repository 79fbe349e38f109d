"""A disk, over a file or a block device."""

from ._device import Block as Block
from ._image import Image as Image
from ._opening import ImageError as ImageError
