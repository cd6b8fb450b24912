//! Coracle end to end: starts the built binaries and drives them with the stock clients.
