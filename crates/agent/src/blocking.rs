//! Work that may block, in the middle of a task.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work` where it holds no thread that other tasks need.
pub(crate) fn apart<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        // Only tests have a runtime with one thread.
        Ok(_) | Err(_) => work(),
    }
}
