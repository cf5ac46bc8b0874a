//! A model as it is started: its program found, and what it may read worked out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::protocol::{Description, Listener, Said};
use super::users::User;
use crate::sandbox::{self, Limits, Sandboxed, Spec};
use crate::settings::{ModelSettings, Program, WorkerSettings};

/// The hidden subcommand of the binary that is the built-in model.
const MODEL_SUBCOMMAND: &str = "model";
/// The hidden subcommand that makes a model of a command that writes SARIF.
const SARIF_SUBCOMMAND: &str = "sarif-model";
/// Where a bare program name is looked for.
const PROGRAM_FOLDERS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];
/// Never shown because a program lies there.
const NEVER_SHOWN: [&str; 11] = [
    "/", "/etc", "/home", "/root", "/tmp", "/var", "/var/tmp", "/run", "/proc", "/sys", "/dev",
];
/// How long a model may take to describe itself.
const DESCRIBE_TIME: Duration = Duration::from_secs(30);
/// Open files of one process of a model.
const OPEN_FILES: u64 = 1_024;

/// A model ready to be started.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    read: Vec<PathBuf>,
    network: bool,
    sandbox: bool,
    limits: Limits,
}

/// The folders and user of one run.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    pub(crate) input: Option<PathBuf>,
    pub(crate) output: Option<PathBuf>,
    pub(crate) temporary: PathBuf,
    pub(crate) user: Option<&'a User>,
}

impl Model {
    /// Finds the program of `model`. `own` is our own binary, `data` the worker's folder.
    ///
    /// # Errors
    /// When there is no such program.
    pub(crate) fn find(
        model: &ModelSettings,
        settings: &WorkerSettings,
        own: &Path,
        data: &Path,
    ) -> Result<Self, String> {
        let mut read = model.read.clone();
        let mut show = |program: &Path, arguments: &[String]| {
            read.push(program.to_owned());
            read.extend(program_folders(program, &[data, &settings.base]));
            let files = arguments.iter().map(PathBuf::from);
            read.extend(files.filter(|path| path.is_absolute() && path.is_file()));
        };
        let (program, arguments) = match &model.program {
            Program::Builtin => (own.to_path_buf(), vec![MODEL_SUBCOMMAND.to_owned()]),
            Program::Command { program, arguments } => {
                let program = find_program(program)?;
                show(&program, arguments);
                (program, arguments.clone())
            }
            // Our own binary unpacks, runs it, and reads its report: within the same sandbox.
            Program::Sarif { program, arguments } => {
                let program = find_program(program)?;
                show(&program, arguments);
                let named = program.to_str().ok_or("its path is no UTF-8")?.to_owned();
                let mut command = vec![SARIF_SUBCOMMAND.to_owned(), named];
                command.extend(arguments.iter().cloned());
                (own.to_path_buf(), command)
            }
        };
        read.push(program.clone());
        Ok(Self {
            name: model.name.clone(),
            program,
            arguments,
            read,
            network: model.network,
            sandbox: model.sandbox,
            limits: Limits {
                memory: settings.memory_max,
                cpu: settings.cpu_max.as_secs(),
                file: settings.file_max,
                disk: settings.output_max,
                processes: settings.processes_max,
                open_files: OPEN_FILES,
            },
        })
    }

    pub(crate) fn is_confined(&self) -> bool {
        self.sandbox
    }

    /// Starts it in `room`, whose folders are there.
    pub(crate) fn start(&self, own: &Path, room: Room<'_>) -> std::io::Result<Sandboxed> {
        let user = room.user.filter(|_| self.sandbox).map(User::id);
        let write: Vec<PathBuf> = room
            .output
            .into_iter()
            .chain([room.temporary.clone()])
            .collect();
        if let Some(user) = user {
            for folder in &write {
                std::os::unix::fs::chown(folder, Some(user), Some(user))?;
            }
        }
        let spec = Spec {
            program: self.program.clone(),
            arguments: self.arguments.clone(),
            read: self.read.iter().cloned().chain(room.input).collect(),
            write,
            temporary: room.temporary,
            network: self.network,
            confined: self.sandbox,
            user,
            limits: self.limits,
        };
        sandbox::start(own, &spec)
    }

    /// Asks it what it is, in the sandbox that its runs have. `temporary` is an empty folder.
    ///
    /// # Errors
    /// Why it gave no answer.
    pub(crate) async fn describe(
        &self,
        own: &Path,
        temporary: PathBuf,
        user: Option<&User>,
    ) -> Result<Description, String> {
        let room = Room {
            input: None,
            output: None,
            temporary,
            user,
        };
        let sandboxed = self.start(own, room).map_err(|error| error.to_string())?;
        let (mut channel, mut stdout, stderr, mut supervisor) = sandboxed.into_parts();
        let asked = async {
            channel
                .write_all(b"{\"type\":\"describe\"}\n")
                .await
                .map_err(|error| error.to_string())?;
            let mut listener = Listener::default();
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let read = stdout
                    .read(&mut buffer)
                    .await
                    .map_err(|error| error.to_string())?;
                let bytes = buffer.get(..read).filter(|bytes| !bytes.is_empty());
                let bytes = bytes.ok_or("it ended before it described itself")?;
                for said in listener.take(bytes).map_err(|broken| broken.to_string())? {
                    match said {
                        Said::Description(description) => return Ok(description),
                        Said::Error(why) => return Err(why),
                        _ => {}
                    }
                }
            }
        };
        let answer = tokio::time::timeout(DESCRIBE_TIME, asked)
            .await
            .unwrap_or_else(|_| Err(format!("it said nothing for {} s", DESCRIBE_TIME.as_secs())));
        drop(channel);
        drop(stderr);
        Sandboxed::reap(&mut supervisor).await;
        answer
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

fn find_program(program: &Path) -> Result<PathBuf, String> {
    let candidates = if program.components().count() > 1 {
        vec![std::path::absolute(program).map_err(|error| error.to_string())?]
    } else {
        PROGRAM_FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(program))
            .collect()
    };
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| format!("there is no program {}", program.display()))
}

/// The folder of a program, and the one that a link leads to; none that holds what is secret (the worker's data, the
/// settings, whole homes): then the program's own file must do.
fn program_folders(program: &Path, secret: &[&Path]) -> Vec<PathBuf> {
    let real = std::fs::canonicalize(program).unwrap_or_else(|_| program.to_path_buf());
    let secret: Vec<PathBuf> = secret
        .iter()
        .filter(|path| !path.as_os_str().is_empty())
        .filter_map(|path| std::fs::canonicalize(path).ok())
        .chain(NEVER_SHOWN.map(PathBuf::from))
        .collect();
    [program, &real]
        .into_iter()
        .filter_map(Path::parent)
        .filter_map(|folder| std::fs::canonicalize(folder).ok())
        .filter(|folder| {
            let home = folder.parent() == Some(Path::new("/home"));
            !home && !secret.iter().any(|secret| secret.starts_with(folder))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_program_is_shown_unless_it_holds_a_secret() {
        let root = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(root.path()).unwrap();
        let tool = root.join("tool");
        std::fs::create_dir_all(root.join("data")).unwrap();
        std::fs::create_dir(&tool).unwrap();
        for program in [root.join("model"), tool.join("model")] {
            std::fs::write(program, "").unwrap();
        }
        let data = root.join("data");
        let secret = [data.as_path(), Path::new("")];
        assert_eq!(
            program_folders(&tool.join("model"), &secret),
            [tool.clone(), tool.clone()]
        );
        assert!(program_folders(&root.join("model"), &secret).is_empty());
        // A link into a folder shows both.
        let link = data.join("link");
        std::os::unix::fs::symlink(tool.join("model"), &link).unwrap();
        assert_eq!(program_folders(&link, &[]), [data.clone(), tool]);
        assert!(program_folders(Path::new("/etc/hostname"), &[]).is_empty());
        assert!(find_program(Path::new("no-such-program")).is_err());
        assert_eq!(
            find_program(Path::new("sh")).unwrap().file_name(),
            Some("sh".as_ref())
        );
    }
}
