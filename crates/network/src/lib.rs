//! Coracle's `network`.
