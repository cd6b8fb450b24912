//! Coracle's `runtime`.
