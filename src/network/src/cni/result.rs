//! Results of plugins: parsing, conversion between versions, and what they mean for the pod.
//!
//! A result stays a JSON object all the way, so that what a newer plugin adds reaches the next plugin of the chain.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::plugin::{PluginError, quote};
use super::version::Version;
use crate::pod::{Attached, Interface};

/// The result of an ADD, in the version that the network is used with.
pub(super) type AddResult = Map<String, Value>;

/// Parses what a plugin printed after a successful ADD and brings it to `version`.
pub(super) fn parse(stdout: &[u8], version: Version) -> Result<AddResult, PluginError> {
    let garbage = |problem: String| PluginError::Garbage {
        problem,
        output: quote(stdout),
    };
    let mut result = match serde_json::from_slice(stdout) {
        Ok(Value::Object(result)) => result,
        Ok(_) => return Err(garbage("not a JSON object".to_owned())),
        Err(_) if stdout.trim_ascii().is_empty() => return Err(garbage("empty".to_owned())),
        Err(error) => return Err(garbage(format!("not JSON: {error}"))),
    };
    match result.get("cniVersion") {
        None => {}
        Some(Value::String(text)) if Version::parse(text).is_some() => {}
        Some(other) => {
            return Err(garbage(format!(
                "in cniVersion {other}, asked for {version}"
            )));
        }
    }
    convert(&mut result, version).map_err(|problem| garbage(problem.to_owned()))?;
    Ok(result)
}

/// Brings a result to `version`. Between the versions spoken here only one thing was taken away: the IP version beside
/// an address. What was added meanwhile is ignored by plugins that do not know it.
pub(super) fn convert(result: &mut AddResult, version: Version) -> Result<(), &'static str> {
    result.insert("cniVersion".to_owned(), version.as_str().into());
    let ips = match result.get_mut("ips") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(ips)) => ips,
        Some(_) => return Err("ips is not a list"),
    };
    for ip in ips {
        let Value::Object(ip) = ip else {
            return Err("an entry of ips is not an object");
        };
        if version.has_ip_version() {
            let family = match address(ip).ok_or("an entry of ips has no valid address")? {
                IpAddr::V4(_) => "4",
                IpAddr::V6(_) => "6",
            };
            ip.insert("version".to_owned(), family.into());
        } else {
            ip.remove("version");
        }
    }
    Ok(())
}

/// What the final result of a chain means for a pod with the interface `ifname`.
pub(super) fn attached(
    network: &str,
    ifname: &str,
    result: &AddResult,
) -> Result<Attached, PluginError> {
    let interfaces: Vec<Interface> = list(result, "interfaces").map(interface).collect();
    let is_pods = |ip: &Map<String, Value>| match ip.get("interface").and_then(Value::as_u64) {
        None => true,
        Some(index) => usize::try_from(index)
            .ok()
            .and_then(|index| interfaces.get(index))
            .is_some_and(|interface| interface.name == ifname && interface.sandbox.is_some()),
    };
    let addresses: Vec<(bool, IpAddr)> = list(result, "ips")
        .filter_map(Value::as_object)
        .filter_map(|ip| Some((is_pods(ip), address(ip)?)))
        .collect();
    // Some plugins name the pod's interface otherwise or count interfaces wrongly: better their addresses than none.
    let any_is_pods = addresses.iter().any(|(pods, _)| *pods);
    let ips: Vec<IpAddr> = addresses
        .into_iter()
        .filter(|(pods, _)| *pods || !any_is_pods)
        .map(|(_, ip)| ip)
        .collect();
    if ips.is_empty() {
        return Err(PluginError::NoAddress);
    }
    Ok(Attached {
        network: network.to_owned(),
        ips,
        interfaces,
    })
}

fn list<'a>(result: &'a AddResult, key: &str) -> impl Iterator<Item = &'a Value> {
    result
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn interface(value: &Value) -> Interface {
    let text = |key| value.get(key).and_then(Value::as_str).unwrap_or_default();
    Interface {
        name: text("name").to_owned(),
        mac: text("mac").to_owned(),
        sandbox: Some(text("sandbox"))
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
    }
}

/// The address of an entry of `ips`, which is written with its prefix length.
fn address(ip: &Map<String, Value>) -> Option<IpAddr> {
    let text = ip.get("address")?.as_str()?;
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some(address)
}

#[cfg(test)]
mod tests;
