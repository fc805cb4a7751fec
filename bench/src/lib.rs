//! Benchmarks and gates; everything is in `benches/` and `tests/`.
#![forbid(unsafe_code)]
