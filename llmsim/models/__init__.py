"""Published models, bundled as the facts of their config.json under lower-case names."""

from .catalogue import bundled_models, bundled_path
from .hub_ids import HUB_IDS
from .spellings import stored_format, stored_otherwise
from .towers import tower_parameters

__all__ = ["HUB_IDS", "bundled_models", "bundled_path", "stored_format", "stored_otherwise", "tower_parameters"]
