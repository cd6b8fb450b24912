//! Coracle's engine: the Docker API and what joins images, runtime and networks behind it.

#![recursion_limit = "512"]

pub mod api;
mod build;
pub mod builds;
mod changes;
pub mod config;
pub mod container;
pub mod engine;
pub mod error;
pub mod events;
pub mod exec;
mod guest_ports;
pub mod host_paths;
mod listeners;
mod names;
pub mod networks;
pub mod remap;
mod rootfs;
pub mod store;
mod time;
mod truth;
pub mod volumes;
