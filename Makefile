# What the README's commands call. Each target sets up what it needs (once, see requirements/set_up.py).

SHELL := /bin/bash
.SHELLFLAGS := -e -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
OUT ?= out
DATA ?= $(OUT)/data
# The demo's drive: a world that no training has seen.
SEED ?= 903

# Arguments passed on, for example: make test ARGS="-k grid"
ARGS ?=
# A process for each core, each with whole files of tests: most tests wait, for DDS or for processes, or use one core.
PARALLEL ?= -n auto --maxprocesses 4 --dist loadfile

ENV := source .venv/env.sh &&

.PHONY: help demo test test-fast mutants lint docs bench train-small circle train-demo platforms setup-demo setup-test clean

help:
	@echo "make demo        drive through ROS 2, scored detections and a report in $(OUT)/demo"
	@echo "make test        all tests"
	@echo "make test-fast   those that take seconds each"
	@echo "make mutants     change one line of the core at a time: which changes does no test notice?"
	@echo "make lint        ruff and mypy"
	@echo "make docs        make plots, figures, tables and pages anew that follow from docs/data and the code"
	@echo "make bench       what node, networks and training cost in time; writes the tables in docs/"
	@echo "make train-small a distilled, exported, replayed student from nothing, in minutes; in $(OUT)/small"
	@echo "make circle      from a drive to a better model in the running vehicle, and back out of worse ones; in $(OUT)/circle"
	@echo "make train-demo  train the shipped model anew on the nuScenes-format data in $(DATA)"
	@echo "make platforms   on which Pythons and numpys does the runtime run? Throw-away environments, minutes each"
	@echo "make clean       remove the virtual environment, builds and outputs"
	@echo "Variables: PYTHON=python3.12, OUT=folder, DATA=folder, SEED=number, ARGS=\"further arguments\""

setup-demo:
	@"$(PYTHON)" requirements/set_up.py demo

setup-test:
	@"$(PYTHON)" requirements/set_up.py test

demo: setup-demo
	@$(ENV) OMP_NUM_THREADS=1 python -m training.world bag "$(OUT)/demo/drive_$(SEED)" --world city --seed $(SEED) --duration 10 --scale 0.25 \
		--workers "$$(nproc)" --keep
	@$(ENV) python -m bev_perception.evaluation.demo "$(OUT)/demo/drive_$(SEED)" --out "$(OUT)/demo" $(ARGS)

test: setup-test
	@$(ENV) python -m pytest -q $(PARALLEL) $(ARGS)

test-fast: setup-test
	@$(ENV) python -m pytest -q -m fast $(PARALLEL) $(ARGS)

mutants: setup-test
	@$(ENV) python test/mutants.py $(ARGS)

lint: setup-test
	@$(ENV) ruff check . && mypy

docs: setup-test
	@$(ENV) python -m docs && python -m docs.figures && python -m docs.pages

bench: setup-test
	@$(ENV) python -m bev_perception.evaluation.bench $(ARGS)
	@$(ENV) python -m training.bench --out "$(OUT)"
	@$(ENV) python -m docs

train-small: setup-test
	@$(ENV) python -m training.train_small "$(OUT)/small" $(ARGS)

circle: setup-test
	@$(ENV) python -m training.circle "$(OUT)/circle" $(ARGS)

train-demo: setup-test
	@$(ENV) python -m training.train training.experiments.demo:full --data "$(DATA)" --out "$(OUT)/train-demo" $(ARGS)

platforms:
	@"$(PYTHON)" requirements/platforms.py $(ARGS)

clean:
	rm -rf .venv .venv.aside .venv.log build install log out .pytest_cache .ruff_cache .mypy_cache *.egg-info
