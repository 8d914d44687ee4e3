"""The ament_python package `bev_perception`; its version is also in package.xml (test_packaging.py compares)."""

import sys
from pathlib import Path

from setuptools import find_packages, setup

NAME = "bev_perception"
HERE = Path(__file__).resolve().parent

# Name for `ros2 run bev_perception NAME` -> function.
PROGRAMS = {
    "perception_node": "bev_perception.ros.node:main",
    "deploy": "bev_perception.ros.deploy:main",
    "build_engine": "bev_perception.inference.build_engine:main",
    "check_gpu": "bev_perception.inference.check_gpu:main",
    "upgrade_bundle": "bev_perception.upgrade_bundle:main",
    "archive": "bev_perception.archive:main",
    "sign_bundle": "bev_perception.signing:main",
    "fetch_bundle": "bev_perception.store:main",
    "replay": "bev_perception.replay:main",
    "evaluate": "bev_perception.evaluation.evaluate:main",
    "doctor": "bev_perception.doctor:main",
    "calibration_check": "bev_perception.calibration_check:main",
    "bring_up_rig": "bev_perception.bring_up_rig:main",
    "play_bag": "bev_perception.ros.play_bag:main",
    "record_bag": "bev_perception.ros.record_bag:main",
}

# colcon asks for `install` or `develop`: programs go to lib/bev_perception (setup.cfg), where `ros2 run` finds them.
# pip asks for a wheel, whose programs are on PATH among everybody's: there the names begin with the package's.
FOR_PATH = bool({"bdist_wheel", "dist_info", "editable_wheel"} & set(sys.argv))


def program(name: str) -> str:
    return f"{NAME}_{name.removeprefix('perception_')}" if FOR_PATH else name


# The definitions of our messages travel inside too: the replay writes bags where bev_perception_msgs is not built. A
# build that links to the sources (`colcon build --symlink-install`) does not see them from where it stands: there the
# replay finds them among the sources.
MESSAGES = "bev_perception_msgs/msg"
DEFINITIONS = {f"{NAME}.definitions": MESSAGES} if Path(MESSAGES).is_dir() else {}

setup(
    name=NAME,
    version="0.1.0",
    description="3D object detection in bird's-eye view from surround cameras and radars, with temporal fusion",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url="https://bev-perception.example.org",
    author="bev_perception authors",
    author_email="maintainers@bev-perception.example.org",
    maintainer="bev_perception maintainers",
    maintainer_email="maintainers@bev-perception.example.org",
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10",
    # `training` travels along so that `pip install .[training]` has it; the runtime never imports it
    # (test_import_boundaries.py) and its dependencies are an extra.
    packages=[*find_packages(include=[NAME, f"{NAME}.*", "training", "training.*"]), *DEFINITIONS],
    package_dir=DEFINITIONS,
    package_data={
        NAME: ["bundles/**/*", "config/**/*", "evaluation/report_page/*.css", "evaluation/report_page/*.js"],
        f"{NAME}.definitions": ["*.msg"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(str(path) for path in Path("launch").glob("*.launch.py"))),
        (f"share/{NAME}/config", sorted(str(path) for path in Path(NAME, "config").glob("*") if path.is_file())),
    ],
    # rosbags: bags/mcap_file.py reads damaged files with its parts, which are of this version.
    install_requires=["numpy", "opencv-python-headless<5", "pyyaml", "onnxruntime", "rosbags>=0.11,<0.12"],
    extras_require={
        "openvino": ["openvino"],
        "tensorrt": ["tensorrt", "pycuda", "onnx"],
        "video": ["av"],
        "signing": ["model-signing", "pyopenssl"],  # the first imports the second and does not say so
        "ray": ["ray>=2.9"],
        "evaluation": ["trimesh", "embreex"],
        "training": [
            "torch==2.13.0",  # the version that trained and exported the shipped model
            "lightning",
            "onnx",
            "onnxscript",
            "scipy",
            "tensorboard",
            "pyarrow>=15",
            "scikit-learn",
            "torch-pruning",
            "safetensors",
            "nuscenes-devkit==1.2.0",
            "matplotlib",
            "trimesh",
            "embreex",
        ],
        "test": ["pytest", "pytest-xdist", "hypothesis", "ruff", "mypy"],
    },
    zip_safe=False,
    entry_points={"console_scripts": [f"{program(name)} = {target}" for name, target in PROGRAMS.items()]},
)
