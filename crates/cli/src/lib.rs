//! Coracle's `cli`.
