//! Coracle's `link`.
