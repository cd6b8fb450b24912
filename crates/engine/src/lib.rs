//! Coracle's `engine`.
