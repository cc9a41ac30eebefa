//! Measures the cost of depending on a client: the crates in its tree, a build from scratch, and
//! the size of the smallest program.
//!
//! Each client gets its own package under the target folder, so that it has only the features that
//! it requests. A committed lock file sets its versions.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::{Effort, Result};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

struct Package {
    name: &'static str,
    title: &'static str,
    dependencies: &'static str,
    /// The smallest program that streams the text of a chat.
    main: &'static str,
    /// The lock file that sets the versions.
    lock: &'static str,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "tokenwire",
        title: "**tokenwire**, without default features",
        dependencies: "tokenwire = { path = \"{root}\", default-features = false }",
        main: TOKENWIRE,
        lock: "../../Cargo.lock",
    },
    Package {
        name: "tokenwire-tokenizer",
        title: "**tokenwire**, with `tokenizer`",
        dependencies: "tokenwire = { path = \"{root}\", features = [\"tokenizer\"] }",
        main: TOKENWIRE,
        lock: "../../Cargo.lock",
    },
    Package {
        name: "reqwest",
        title: "reqwest, eventsource-stream, serde, rustls",
        dependencies: r#"eventsource-stream = "0.2.3"
futures-util = "0.3"
reqwest = { version = "0.13", default-features = false, features = ["stream", "json", "rustls"] }
serde = { version = "1", features = ["derive"] }
serde_json = "1"
tokio = { version = "1", features = ["rt", "net", "time"] }"#,
        main: include_str!("../programs/reqwest.rs"),
        lock: "programs/reqwest.lock",
    },
    Package {
        name: "async-openai",
        title: "async-openai, only chat, rustls",
        dependencies: r#"async-openai = { version = "0.43", default-features = false, features = ["chat-completion", "rustls"] }
futures-util = "0.3"
tokio = { version = "1", features = ["rt-multi-thread"] }"#,
        main: include_str!("../programs/async_openai.rs"),
        lock: "programs/async_openai.lock",
    },
];

const TOKENWIRE: &str = include_str!("../programs/tokenwire.rs");

impl Package {
    /// Creates the folder of the package, without any build output.
    fn make(&self) -> Result<PathBuf> {
        let here = Path::new(HERE);
        let folder = here.join("target/depend").join(self.name);
        fs::remove_dir_all(&folder).or_else(|error| if folder.exists() { Err(error) } else { Ok(()) })?;
        fs::create_dir_all(folder.join("src"))?;
        fs::write(folder.join("src/main.rs"), self.main)?;
        fs::copy(here.join(self.lock), folder.join("Cargo.lock"))?;
        let dependencies = self.dependencies.replace("{root}", &format!("{HERE}/../.."));
        fs::write(
            folder.join("Cargo.toml"),
            format!(
                "[package]\nname = \"smallest\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}\n\n\
                 [workspace]\n\n[profile.release]\nstrip = true\n"
            ),
        )?;
        Ok(folder)
    }
}

fn cargo(folder: &Path, args: &[&str]) -> Result<String> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(args)
        .current_dir(folder)
        .env_remove("RUSTFLAGS")
        .env("CARGO_TARGET_DIR", folder.join("target"));
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Counts the crates that are compiled for the program, except the program itself. `edges` is an
/// argument of `cargo tree`.
fn crates(folder: &Path, edges: &str) -> Result<usize> {
    let tree =
        cargo(folder, &["tree", "--edges", edges, "--prefix", "none", "--format", "{p}", "--no-dedupe"])?;
    // Keep the name and version. The source or `(proc-macro)` follows the version.
    let names = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let crates: BTreeSet<_> = tree.lines().map(names).filter(|name| !name.starts_with("smallest ")).collect();
    Ok(crates.len())
}

/// Returns the CPU time of all child processes that have ended, in seconds.
fn cpu_of_children() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // The unit is a hundredth of a second everywhere on Linux.
    let ticks = |place: usize| {
        fields
            .get(place)
            .and_then(|ticks| ticks.parse::<f64>().ok())
            .ok_or("missing field in /proc/self/stat")
    };
    Ok((ticks(13)? + ticks(14)?) / 100.0)
}

pub const INTRO: &str = "\
The table counts the crates of a package with one dependency, for a program that streams a chat,
also over TLS. The goals are 40 crates, and 95 with the tokenizer.
";

pub fn table(out: &mut String, _: Effort) -> Result<()> {
    writeln!(out, "| client | crates | with crates of build scripts |")?;
    writeln!(out, "| --- | --- | --- |")?;
    for package in PACKAGES {
        let folder = package.make()?;
        let (normal, all) = (crates(&folder, "normal")?, crates(&folder, "normal,build")?);
        writeln!(out, "| {} | {normal} | {all} |", package.title)?;
    }
    Ok(())
}

pub const BUILD_INTRO: &str = "\
The table shows a release build of the smallest such program from scratch. CPU time is the time of
cargo and of all processes that it starts.
";

pub fn build_table(out: &mut String, _: Effort) -> Result<()> {
    writeln!(out, "| client | CPU s | stripped program, MiB |")?;
    writeln!(out, "| --- | --- | --- |")?;
    for package in PACKAGES {
        let folder = package.make()?;
        let before = cpu_of_children()?;
        cargo(&folder, &["build", "--release"])?;
        let seconds = cpu_of_children()? - before;
        let bytes = fs::metadata(folder.join("target/release/smallest"))?.len();
        fs::remove_dir_all(folder.join("target"))?;
        writeln!(out, "| {} | {seconds:.0} | {:.1} |", package.title, bytes as f64 / f64::from(1 << 20))?;
    }
    Ok(())
}
