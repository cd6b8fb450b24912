//! Certificates of a test's own, by openssl(1) as Docker's documentation has it.

use std::path::Path;
use std::process::Command;

fn openssl(folder: &Path, args: &str) {
    let words: Vec<&str> = args.split_whitespace().collect();
    let done = Command::new("openssl").args(&words).current_dir(folder).output().expect("openssl");
    assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An authority `ca.pem`, and certificates of it, `NAME.pem` with `NAME-key.pem`, for 127.0.0.1, `localhost` and a host
/// of their own name.
pub fn make(folder: &Path, names: &[&str]) {
    openssl(
        folder,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ca -days 2 -keyout ca-key.pem -out ca.pem",
    );
    for name in names {
        let san = format!("subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:{name}\n");
        std::fs::write(folder.join("san"), san).expect("write");
        openssl(
            folder,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}-key.pem -out {name}.csr"
            ),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile san -out {name}.pem"
            ),
        );
    }
}
