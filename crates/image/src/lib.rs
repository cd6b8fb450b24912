//! Coracle's `image`.
