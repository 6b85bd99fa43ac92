"""Package metadata, with the ranges that work; requirements/lock.txt has one exact choice.

Required is what training, evaluation and conversion import; the rest is in extras. Not listed
is detectron2, which the registry does not have under that name: see tools/install_detectron2.py.
Nor is what detectron2 brings itself, such as matplotlib for pictures. OpenCV is an extra, because
two packages provide the same module and installing the one over the other breaks both.
"""

from setuptools import find_packages, setup

setup(
    name="sparsercnn",
    version="0.1.0",
    description="Sparse R-CNN and its relatives as a detectron2 project",
    license="Apache-2.0",
    package_dir={"": "projects/SparseRCNN"},
    packages=find_packages("projects/SparseRCNN"),
    # sparsercnn/configs is a link to the folder at the top; a wheel gets the files.
    package_data={
        "sparsercnn": ["configs/*/*.yaml", "py.typed"],
        "sparsercnn.analysis": ["*.j2"],
        "sparsercnn.report": ["browse.*"],
    },
    entry_points={"console_scripts": ["sparsercnn = sparsercnn.__main__:main"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "numpy>=1.23",
        "msgspec>=0.19",
        "scipy>=1.8",
        "Pillow>=9.4",
        "PyYAML>=6.0",
        "pycocotools>=2.0.6",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.7",
        "tabulate>=0.9",
        "tqdm>=4.62",
    ],
    extras_require={
        "headless": ["opencv-python-headless"],
        "gui": ["opencv-python"],
        "fast-eval": ["faster-coco-eval>=1.6"],
        "safetensors": ["safetensors>=0.4"],
        # safetensors is the format of most weights of timm.
        "backbones": ["timm>=1.0.15", "safetensors>=0.4"],
        # Or its successor albumentationsx, of the same module name (docs/recipes.md).
        "albumentations": ["albumentations>=2.0"],
        "wandb": ["wandb>=0.16"],
        "mlflow": ["mlflow>=2.9"],
        "export": [
            "onnx>=1.17",
            "onnxscript>=0.5",
            "onnxruntime>=1.20",
            "openvino>=2025.0",
            "nncf>=2.15",
        ],
        "sweep": [
            "submitit>=1.4",
            "omegaconf>=2.3",
            "pandas>=2.1",
            "scipy>=1.10",
            "Jinja2>=3.1",
            "matplotlib>=3.6",
        ],
        "report": ["pandas>=2.1", "Jinja2>=3.1", "matplotlib>=3.6"],
        # Its routes and checks are restricted by name (sparsercnn/serve/guard.py).
        "web": ["gradio>=6.31,<7", "fastapi", "uvicorn"],
        "dev": [
            "sparsercnn[backbones,fast-eval,report,safetensors,sweep]",
            "pytest",
            "hypothesis",
            "ruff",
            "pre-commit",
            "POT",
        ],
    },
)
