//! Coracle's `wire`.
