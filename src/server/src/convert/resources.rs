//! Resource limits.

use api::cri;
use spec::model::Resources;

use super::{At, Refusal, each, no_nul, present};

/// Limits as asked for. Whether the node's cgroups can express them is for `spec` to say.
pub(crate) fn resources(
    at: At<'_>,
    given: cri::LinuxContainerResources,
) -> Result<Resources, Refusal> {
    let not_negative = |name, value: i64| {
        if value < 0 {
            return Err(at.field(name).refuse(format_args!("{value} is negative")));
        }
        Ok(value)
    };
    if !(-1000..=1000).contains(&given.oom_score_adj) {
        return Err(at.field("oom_score_adj").refuse(format_args!(
            "{} is not in -1000..=1000",
            given.oom_score_adj
        )));
    }
    for name in given.unified.keys() {
        present(at.field("unified"), name)?;
    }
    Ok(Resources {
        cpu_period_us: not_negative("cpu_period", given.cpu_period)?,
        cpu_quota_us: given.cpu_quota,
        cpu_shares: not_negative("cpu_shares", given.cpu_shares)?,
        memory_limit_bytes: given.memory_limit_in_bytes,
        memory_swap_limit_bytes: given.memory_swap_limit_in_bytes,
        oom_score_adj: given.oom_score_adj,
        cpuset_cpus: no_nul(at.field("cpuset_cpus"), given.cpuset_cpus)?,
        cpuset_mems: no_nul(at.field("cpuset_mems"), given.cpuset_mems)?,
        hugepage_limits: each(
            at.field("hugepage_limits"),
            given.hugepage_limits,
            |at, limit| {
                present(at.field("page_size"), &limit.page_size)?;
                Ok((limit.page_size, limit.limit))
            },
        )?,
        unified: given.unified,
    })
}

/// Limits of an update, which are a field of the request itself.
pub(crate) fn new_limits(
    field: &str,
    given: cri::LinuxContainerResources,
) -> Result<Resources, Refusal> {
    resources(At::root(field), given)
}

/// Limits that may be absent.
pub(super) fn resources_if_any(
    at: At<'_>,
    given: Option<cri::LinuxContainerResources>,
) -> Result<Option<Resources>, Refusal> {
    given.map(|given| resources(at, given)).transpose()
}
