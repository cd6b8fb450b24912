//! Coracle's `host`.
