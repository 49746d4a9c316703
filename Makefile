# Two commands: `make serve` and `make test`. Both set up what is missing.
PYTHON ?= python3
PORT ?= 8080
MANAGEMENT_PORT ?= 8081
METRICS_PORT ?= 8082
GRPC_PORT ?= 7070
GRPC_MANAGEMENT_PORT ?= 7071
GALLERY_PORT ?= 8090
PORTS = --inference $(PORT) --management $(MANAGEMENT_PORT) --metrics $(METRICS_PORT) \
  --grpc-inference $(GRPC_PORT) --grpc-management $(GRPC_MANAGEMENT_PORT)
BIN := .venv/bin
WEIGHTS := model_store/generator.safetensors
EXPORT_SOURCES := $(wildcard model_store/directions.safetensors export/*.py handler/*.py handler/*/*.py handler/*.yaml training/networks.py training/weights.py)

PROMETHEUS_RULE := deploy/kubernetes/components/monitoring/prometheusrule.yaml

.PHONY: named help setup serve gallery stop test test-tools test-long lint export bench bench-peers gpu-check clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/ready  ## make .venv from the pins in requirements.txt

.venv/ready: requirements.txt deploy/java.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v in ((3, 11), (3, 12)) or sys.exit(f"error: Python 3.11 or 3.12 is needed, $(PYTHON) is {v[0]}.{v[1]}; run: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement requirements.txt
	$(BIN)/python -m deploy.java
	@touch $@

export: model_store/dcgan.mar  ## pack model_store/dcgan.mar from the shipped weights

# Weights named on the command line are packed, whatever was packed last.
model_store/dcgan.mar: $(if $(filter command,$(origin WEIGHTS)),named,$(WEIGHTS)) $(EXPORT_SOURCES) | .venv/ready
	$(BIN)/python -m export --weights $(WEIGHTS)

# The alerts for the Prometheus operator. Kustomize can neither wrap a file nor read one outside of
# its folder, so the result is kept.
$(PROMETHEUS_RULE): deploy/prometheus/alerts.yml
	@{ printf '%s\n' '# Made from deploy/prometheus/alerts.yml; after a change there:' \
	  '#   make --always-make deploy/kubernetes/components/monitoring/prometheusrule.yaml' \
	  'apiVersion: monitoring.coreos.com/v1' 'kind: PrometheusRule' 'metadata:' '  name: dcgan' \
	  '  namespace: dcgan' '  labels:' '    app.kubernetes.io/name: dcgan' \
	  '    # As of the PodMonitor.' '    release: kube-prometheus-stack' 'spec:'; \
	  sed 's/^./  &/' $<; } > $@

serve: model_store/dcgan.mar  ## serve on 127.0.0.1 and write grid.png
	@$(BIN)/python -m deploy.serve start $(PORTS)

gallery: model_store/dcgan.mar  ## a page to look at it all, until Ctrl-C; starts the server if needed
	@$(BIN)/python -m deploy.gallery --port $(GALLERY_PORT) $(PORTS)

stop:  ## stop the server
	@test ! -d .server || $(BIN)/python -m deploy.serve stop

lint: .venv/ready  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint model_store/dcgan.mar  ## style, types and every test but the long ones
	@# In the order of the names: the files of few and slow tests are not the last then.
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-tools:  ## install what tests can use: the packages of tests/tools.txt (Debian, root)
	apt-get update -qq
	sed 's/#.*//' tests/tools.txt | DEBIAN_FRONTEND=noninteractive xargs apt-get install --yes -qq --no-install-recommends > /dev/null

test-long: .venv/ready model_store/dcgan.mar  ## the long tests: containers, load for minutes, thousands of updates
	$(BIN)/python -m pytest -m "long or container"

bench: model_store/dcgan.mar  ## ours, the stock handler, the ceiling, the peers in .peers/ (6 to 10 minutes, 16 with all)
	$(BIN)/python -m benchmarks.compare serving --peers installed

bench-peers: model_store/dcgan.mar  ## the same with all peers, set up in .peers/ (0.5 GB)
	$(BIN)/python -m benchmarks.compare serving --peers all

gpu-check: model_store/dcgan.mar  ## check and measure what a GPU does here (below 8 minutes)
	$(BIN)/python -m benchmarks.gpu

clean: stop  ## remove what make made, but for .venv
	rm -rf .server model_store/dcgan.mar model_store/dcgan.mar.sha256 model_store/parity.json grid.png logs
