//! The README says what is not there, as the router has it.

use std::process::Command;

#[test]
fn the_list_of_missing_operations_is_the_routers() {
    let out = Command::new(tests::tool("CORACLE_TEST_BIN").join("coracle-engine"))
        .arg("operations")
        .output()
        .unwrap();
    let listed = String::from_utf8(out.stdout).unwrap();
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let (_, rest) = readme.split_once("<!-- operations -->\n").expect("the list's beginning");
    let (list, _) = rest.split_once("<!-- /operations -->").expect("the list's end");
    assert_eq!(list, listed, "put the output of `coracle-engine operations` between the marks in README.md");
}
