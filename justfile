# Short ways. `just` alone lists them.
_default:
    @just --list --unsorted

# the main job on this machine
up *ARGS:
    cargo run --release -- up {{ARGS}}

# what CI runs
ci:
    bash .ci/run

# every test; or the named parts
test *PARTS:
    ./test {{PARTS}}

# formatting and lints
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# one fuzz target for a minute
fuzz TARGET:
    fuzz/run -max_total_time=60 {{TARGET}}

# the gate beside nginx, HAProxy and others; arguments as in bench/gate/run --help
bench *ARGS:
    bench/gate/run {{ARGS}}

# a healthy client beside slow attackers
bench-slow *ARGS:
    bench/slow/run {{ARGS}}

# who lets one message become two: the gate and other servers
desync *ARGS:
    tests/desync/run {{ARGS}}
