//! The binary: command line, environment, signals, wiring, exit codes.
mod client;
mod outcome;

fn main() {}
