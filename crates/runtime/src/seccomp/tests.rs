//! Tests of profiles and compiler.
