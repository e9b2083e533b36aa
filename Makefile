# make demo    watch Mask R-CNN with TransXNet-T learn, in a few minutes on a CPU
# make test    lint and all tests
# make lint    ruff alone
# make bench   the speed table
# Each makes the environment in .venv first when it is missing.

VENV ?= .venv
# The first fit Python; name another with PYTHON=...
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& { echo $$p; exit; }; done; echo python3)
RUN = $(VENV)/bin/python
READY = $(VENV)/ready

.PHONY: demo test lint bench

demo: $(READY)
	$(RUN) tools/train.py configs/mask_rcnn_transxnet_t_coco.py --quick

test: lint
	$(RUN) -m pytest

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

bench: $(READY)
	$(RUN) tools/bench.py

$(READY): $(wildcard requirements/*.txt) setup.py tools/bootstrap.py
	$(PYTHON) tools/bootstrap.py $(VENV)
	@touch $@
