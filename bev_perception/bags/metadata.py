"""metadata.yaml of a recording. Recorders write it, but anybody may have: it is read within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from bev_perception.files import read_text

METADATA = "metadata.yaml"
SIZE_LIMIT = 16 * 1024 * 1024  # bytes; a thousand topics with their QoS have one million


class _Loader(yaml.SafeLoader):
    """Recorders write no aliases; a few lines of them stand for more than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "found an alias", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def read_metadata(folder: Path) -> Any:
    """What is below `rosbag2_bagfile_information`. Raises FileNotFoundError where there is no file, OSError and
    ValueError where it cannot be read."""
    try:
        tree = yaml.load(read_text(folder / METADATA, SIZE_LIMIT), _Loader)
        return tree["rosbag2_bagfile_information"]
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise ValueError(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
    except RecursionError as error:
        raise ValueError("nested too deep") from error
