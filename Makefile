# make demo    watch Mask R-CNN with TransXNet-T learn, in a few minutes on a CPU
# make check   lint and the tests that are quick: what to run after every change
# make test    lint and all tests
# make lint    ruff alone
# make bench   the speed table
# make torture kill quick trainings 20 times over (RUNS=20), resume them, compare how they end
# make soak    train for hours (HOURS=2) with restarts, and watch memory and open files
# make gpu     on a machine with a GPU: tests, equality, demos, speed, into results/gpu.*; DEVICE=cpu
#              SIZE=tiny tries the command. Without an environment in .venv it takes python3 as it is.
# make gpu-claims  train CIFAR-10 with and without depth-wise shortcuts for HOURS=1, and on next time
# make docs    the documentation as a site, docs/_build/html, warnings being errors
# make links   ask whether the addresses that the documentation names are there
# make readme  follow the README word for word in a fresh clone
# Each makes the environment in .venv first when it is missing. With STACK=onedl all run on the
# maintained forks of OpenMMLab's packages instead, in .venv-onedl.

STACK ?= openmmlab
VENV ?= .venv$(if $(filter-out openmmlab,$(STACK)),-$(STACK))
# The first fit Python; name another with PYTHON=...
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& { echo $$p; exit; }; done; echo python3)
RUN = $(VENV)/bin/python
# So many tests at the same time, with a thread each. A worker takes tests in their order, so that it
# makes what a file of tests shares but once, and steals from the other's end when it has no more.
WORKERS ?= 2
PYTEST = $(RUN) -m pytest -n $(WORKERS) --dist worksteal
READY = $(VENV)/ready

.PHONY: demo check test lint bench torture soak gpu gpu-claims docs links readme

demo: $(READY)
	$(RUN) tools/train.py configs/mask_rcnn_transxnet_t_coco.py --quick

check: lint
	$(PYTEST) -m "not (process or train or compile or onnx or full_size)"

test: lint
	$(PYTEST)

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

bench: $(READY)
	$(RUN) -m benchmarks speed

torture: $(READY)
	$(RUN) tests/torture.py --runs $(or $(RUNS),20)

soak: $(READY)
	$(RUN) tests/soak.py --hours $(or $(HOURS),2)

gpu gpu-claims: RUN := $(if $(wildcard $(RUN)),$(RUN),python3)
gpu:
	$(RUN) -m benchmarks gpu --device $(or $(DEVICE),cuda) --size $(or $(SIZE),full) $(if $(OUT),--out $(OUT))

gpu-claims:
	$(RUN) -m benchmarks claims --seconds $$(($(or $(HOURS),1) * 3600))

docs: $(READY)
	$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build/html

links: $(READY)
	$(RUN) -m sphinx -q -b linkcheck docs docs/_build/links

readme:
	$(PYTHON) tests/follow_readme.py

$(READY): $(wildcard requirements/*.txt) setup.py tools/bootstrap.py
	$(PYTHON) tools/bootstrap.py $(VENV) $(STACK)
	@touch $@
