//! Coracle's `archive`.
