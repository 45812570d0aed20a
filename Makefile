# What there is to do with LIMEN. `make` alone lists it.
.DEFAULT_GOAL := help
.PHONY: help setup build deb wheels run test campaign bench fmt lint doc

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## install what is missing on Debian 12 (starts and enables nothing)
	@scripts/setup.sh

build: ## build server and host agent, optimised: target/release/limen, limen-agent
	@scripts/setup.sh run
	@scripts/cargo.sh build --release -p limen-http -p limen-agent

deb: build ## build the Debian package: target/deb/limen_VERSION_amd64.deb
	@scripts/deb.sh

wheels: ## build sources and wheels of the Python package: target/wheels
	@scripts/setup.sh run
	@scripts/wheels.sh

run: ## serve on 127.0.0.1:18443, with a small guest to greet you
	@scripts/run.sh

test: ## everything: format, lints, documents, all tests on real back ends
	@scripts/test.sh

campaign: ## the long forms of the tests named campaign, the wheels, and the package in a Debian that boots
	@scripts/setup.sh
	@scripts/cargo.sh build --release -p limen-http -p limen-agent
	@LIMEN_CAMPAIGN=full scripts/cargo.sh test --release --workspace campaign -- --nocapture --test-threads=1
	@scripts/wheels.sh
	@scripts/deb.sh --to target/booted
	@tests/booted.sh target/booted/limen_*.deb

bench: ## the benches: ratios of two things measured in one run
	@scripts/setup.sh
	@scripts/cargo.sh build --release -p limen-http -p limen-agent
	@scripts/cargo.sh bench --workspace

fmt: ## format the code
	@scripts/cargo.sh fmt --all

lint: ## the lints that the tests insist on
	@scripts/cargo.sh clippy --release --workspace --all-targets -- -D warnings

doc: ## build the documentation: target/doc/limen_core/index.html
	@RUSTDOCFLAGS=-Dwarnings scripts/cargo.sh doc --release --workspace --no-deps
