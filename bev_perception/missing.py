"""Python packages that a command needs and that are not there: one sentence instead of a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

RUNTIME, EVALUATION = "`pip install .` in the repository", '`pip install ".[evaluation]"` in the repository'
TRAINING = '`pip install torch==2.13.0` and `pip install ".[training]"` in the repository'
ROS = (
    "source ROS 2's setup.bash, and that of this workspace after `colcon build`; without ROS 2 `make setup-demo` and "
    "`source .venv/env.sh` in the repository bring it"
)
# Name that is imported -> how to get it.
MENDS: dict[str, str] = {
    **dict.fromkeys(("numpy", "cv2", "yaml", "onnxruntime", "rosbags"), RUNTIME),
    **dict.fromkeys(("model_signing", "OpenSSL"), '`pip install ".[signing]"` in the repository'),
    "ray": '`pip install ".[ray]"` in the repository, on every machine of the cluster',
    "openvino": '`pip install ".[openvino]"` in the repository',
    **dict.fromkeys(("trimesh", "embreex"), EVALUATION),
    **dict.fromkeys(("torch", "lightning", "onnx", "onnxscript", "scipy", "tensorboard", "torch_pruning"), TRAINING),
    **dict.fromkeys(("safetensors", "nuscenes", "matplotlib", "pyarrow", "sklearn"), TRAINING),
    **dict.fromkeys(("rclpy", "rpyutils", "rosidl_runtime_py"), ROS),
}


def mend(error: BaseException) -> str:
    """The sentence for a package of MENDS, or one of ROS's messages, that cannot be imported; "" for other errors."""
    if not isinstance(error, ImportError):
        return ""
    package = (error.name or "").partition(".")[0]
    how = MENDS.get(package, ROS if package.endswith(("_msgs", "_interfaces")) else "")
    return f"the Python package {package} cannot be imported ({error}): {how}" if how else ""


def tell_missing_packages() -> None:
    """Where this process is a command of ours (`python -m ...`, or a program that pip put on PATH): an import that
    fails for want of a package, wherever it stands, ends it with one sentence and the exit status 1.

    To be called while the package is imported. TRACEBACK=1 in the environment shows where an error comes from.
    """
    # Python names the program "-m" until it has found the module, and imports its packages meanwhile.
    if sys.argv[:1] == ["-m"] or Path((sys.argv or [""])[0]).name.startswith("bev_perception_"):
        sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sentence = mend(error)
    if sentence and not os.environ.get("TRACEBACK"):
        print(f"error: {sentence}", file=sys.stderr)
    else:
        traceback.print_exception(kind, error, trace)
