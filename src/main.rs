//! The command `murder-route`.

fn main() -> std::process::ExitCode {
    murder_route::run_command()
}
