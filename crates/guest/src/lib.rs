//! Coracle's `guest`.
