//! What backstop does to workloads and routes, on a real control plane whose pods are simulated.

#[path = "bed/mod.rs"]
mod bed;
#[path = "cluster/mod.rs"]
mod cluster;

#[path = "kubernetes_act/admission.rs"]
mod admission;
#[path = "kubernetes_act/canary.rs"]
mod canary;
#[path = "kubernetes_act/observe.rs"]
mod observe;
#[path = "kubernetes_act/rig.rs"]
mod rig;
#[path = "kubernetes_act/routes.rs"]
mod routes;
#[path = "kubernetes_act/sight.rs"]
mod sight;
#[path = "kubernetes_act/without_router.rs"]
mod without_router;
