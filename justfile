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
    cargo fuzz run --fuzz-dir fuzz --sanitizer none {{TARGET}} -- -max_total_time=60
