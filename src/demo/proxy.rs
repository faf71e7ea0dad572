//! `codeseal proxy --demo`: a local Confidential Space, a server in it, and a proxy in front of it.

use std::future::Future;
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::DemoError;
use super::scene::Scene;
use crate::proxy::{DemoListen, Proxy};

/// Serves until `stopped`. When requests are answered, one line of JSON on `out` says where.
///
/// # Errors
/// [`DemoError`] if one of the parts does not start.
pub async fn proxy(
    listen: DemoListen,
    scratch: &Path,
    out: &mut dyn Write,
    stopped: impl Future<Output = ()>,
) -> Result<(), DemoError> {
    let scene = Scene::start(scratch).await?;
    let service = scene.serve_editors().await?;
    let (server, keys) = scene.way_to(&service)?;
    let proxy = Proxy::start(listen.with(server, keys, Some(scene.policy()?))).await?;
    let working = async {
        proxy.ready().await;
        let urls: Vec<String> = proxy.addresses().iter().map(|address| format!("http://{address}")).collect();
        let url = urls.first().cloned().unwrap_or_default();
        let line = json!({
            "event": "ready",
            "url": url,
            "openai_base_url": format!("{url}/v1"),
            "status_page": format!("{url}/"),
            "urls": urls,
            "socket": proxy.socket(),
            "model": "a small model of CodeGemma's architecture that is part of this program",
            "server": format!("http://{}", service.address()),
        });
        writeln!(out, "{line}").ok();
        out.flush().ok();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = working => {}
        () = stopped => {}
    }
    proxy.shutdown().await;
    service.shutdown().await;
    scene.end().await;
    Ok(())
}
