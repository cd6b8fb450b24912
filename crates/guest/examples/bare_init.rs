//! The smallest userspace: says on the console that it is there, and waits to be turned off. What a benchmark holds the
//! guest's boot against.

fn main() {
    println!("userspace: up");
    loop {
        std::thread::park();
    }
}
