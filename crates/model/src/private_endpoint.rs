//! Private endpoints to a project's vault: what is remembered of one, and what happens next.
//!
//! [`next`] is the whole state machine: a function of the status, what was seen in Azure, and the time. Statuses and
//! regions are the Atlas Administration API's.

use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    id::{EndpointId, ProjectId},
};

/// An endpoint that Azure did not make within this time has failed, in milliseconds: 30 minutes.
pub const LONGEST_INITIATING_MS: i64 = 30 * 60 * 1000;

/// A private endpoint to the vault of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrivateEndpoint {
    /// Its id.
    pub id: EndpointId,
    /// Whose it is.
    pub project: ProjectId,
    /// Its region, in Atlas' words. One endpoint per region.
    pub region_name: String,
    /// Where it stands.
    pub status: EndpointStatus,
    /// Why it failed, or what holds it up.
    pub error_message: Option<String>,
    /// The vault's name for its connection: what the vault's owner approves.
    pub connection_name: Option<String>,
    /// ARM id of the endpoint.
    pub resource_id: String,
    /// ARM id of the subnet it gets its address from.
    pub subnet_id: String,
    /// ARM id of the vault.
    pub vault_id: String,
    /// When it was asked for.
    pub created: Timestamp,
    /// When `status` was entered.
    pub since: Timestamp,
}

/// Where an endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EndpointStatus {
    /// It is being made.
    Initiating,
    /// The vault's owner has to approve it.
    PendingAcceptance,
    /// It is in use.
    Active,
    /// It did not come about, or was rejected.
    Failed,
    /// The vault's owner removed it; another one will be made.
    PendingRecreation,
    /// It is being deleted.
    Deleting,
}

impl EndpointStatus {
    /// All of them.
    pub const ALL: [EndpointStatus; 6] = [
        EndpointStatus::Initiating,
        EndpointStatus::PendingAcceptance,
        EndpointStatus::Active,
        EndpointStatus::Failed,
        EndpointStatus::PendingRecreation,
        EndpointStatus::Deleting,
    ];

    /// As it stands in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            EndpointStatus::Initiating => "INITIATING",
            EndpointStatus::PendingAcceptance => "PENDING_ACCEPTANCE",
            EndpointStatus::Active => "ACTIVE",
            EndpointStatus::Failed => "FAILED",
            EndpointStatus::PendingRecreation => "PENDING_RECREATION",
            EndpointStatus::Deleting => "DELETING",
        }
    }
}

/// What was seen of an endpoint in Azure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// There is none.
    Absent,
    /// Azure is at work on it.
    Provisioning,
    /// Azure could not make it.
    ProvisioningFailed,
    /// The vault's owner has not decided.
    Pending,
    /// The vault's owner approved it.
    Approved,
    /// The vault's owner rejected it, and may have said why.
    Rejected {
        /// What they wrote.
        said: String,
    },
    /// The vault's owner removed the connection.
    Disconnected,
    /// It could not be looked at.
    Unseen {
        /// Why, in a sentence for a person.
        why: String,
    },
}

/// What to do about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Look again later.
    Wait,
    /// Ask Azure for it.
    Create,
    /// Have Azure delete it.
    Delete,
    /// It is gone: remember it no longer.
    Forget,
}

/// Where an endpoint stands now, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// Its status.
    pub status: EndpointStatus,
    /// What to tell about it.
    pub error_message: Option<String>,
    /// What to do.
    pub step: Step,
}

/// What becomes of an endpoint in `status` since `since`, when `seen` is seen at `now`.
///
/// A failed one stays so until it is deleted: a rejection is final in Azure. One that was removed on the vault's
/// side is deleted and made anew. Not being able to look changes nothing, except that making one takes 30 minutes at
/// most.
pub fn next(status: EndpointStatus, since: Timestamp, seen: &Seen, now: Timestamp) -> Next {
    use EndpointStatus::{Active, Deleting, Failed, Initiating, PendingAcceptance, PendingRecreation};
    let to = |status, step| Next { status, error_message: None, step };
    let failed = |why: String| Next { status: Failed, error_message: Some(why), step: Step::Wait };
    let too_long = now.epoch_ms().saturating_sub(since.epoch_ms()) > LONGEST_INITIATING_MS;
    match (status, seen) {
        (Deleting, Seen::Absent) => to(Deleting, Step::Forget),
        (Deleting, Seen::Unseen { why }) => {
            Next { status: Deleting, error_message: Some(why.clone()), step: Step::Wait }
        }
        (Deleting, _) => to(Deleting, Step::Delete),
        (Failed, _) => to(Failed, Step::Wait),

        (Initiating, Seen::Unseen { why }) if too_long => failed(format!("It could not be made: {why}")),
        (Initiating, Seen::Absent | Seen::Provisioning) if too_long => {
            failed("Azure did not make it within 30 minutes.".to_owned())
        }
        (status, Seen::Unseen { why }) => Next { status, error_message: Some(why.clone()), step: Step::Wait },
        (Initiating | PendingRecreation, Seen::Absent) => to(Initiating, Step::Create),
        (PendingAcceptance | Active, Seen::Absent) => to(PendingRecreation, Step::Create),
        (Initiating | PendingRecreation, Seen::Provisioning) => to(Initiating, Step::Wait),
        (status @ (PendingAcceptance | Active), Seen::Provisioning) => to(status, Step::Wait),
        (_, Seen::ProvisioningFailed) => failed("Azure could not make it.".to_owned()),
        // The removed one lies there still until it is deleted.
        (_, Seen::Disconnected) => to(PendingRecreation, Step::Delete),
        (_, Seen::Pending) => to(PendingAcceptance, Step::Wait),
        (_, Seen::Approved) => to(Active, Step::Wait),
        (_, Seen::Rejected { said }) => {
            let said = said.trim();
            failed(if said.is_empty() {
                "The vault's owner rejected it.".to_owned()
            } else {
                format!("The vault's owner rejected it: {said}")
            })
        }
    }
}

/// Azure's own name of a region, by Atlas' name of it.
pub fn azure_location(region_name: &str) -> Option<&'static str> {
    REGIONS.iter().find(|(name, _)| *name == region_name).map(|(_, location)| *location)
}

/// Atlas' names of Azure's regions, and Azure's.
pub const REGIONS: [(&str, &str); 56] = [
    ("US_CENTRAL", "centralus"),
    ("US_EAST", "eastus"),
    ("US_EAST_2", "eastus2"),
    ("US_NORTH_CENTRAL", "northcentralus"),
    ("US_WEST", "westus"),
    ("US_SOUTH_CENTRAL", "southcentralus"),
    ("EUROPE_NORTH", "northeurope"),
    ("EUROPE_WEST", "westeurope"),
    ("US_WEST_CENTRAL", "westcentralus"),
    ("US_WEST_2", "westus2"),
    ("US_WEST_3", "westus3"),
    ("CANADA_EAST", "canadaeast"),
    ("CANADA_CENTRAL", "canadacentral"),
    ("BRAZIL_SOUTH", "brazilsouth"),
    ("BRAZIL_SOUTHEAST", "brazilsoutheast"),
    ("AUSTRALIA_CENTRAL", "australiacentral"),
    ("AUSTRALIA_CENTRAL_2", "australiacentral2"),
    ("AUSTRALIA_EAST", "australiaeast"),
    ("AUSTRALIA_SOUTH_EAST", "australiasoutheast"),
    ("GERMANY_WEST_CENTRAL", "germanywestcentral"),
    ("GERMANY_NORTH", "germanynorth"),
    ("SWEDEN_CENTRAL", "swedencentral"),
    ("SWEDEN_SOUTH", "swedensouth"),
    ("SWITZERLAND_NORTH", "switzerlandnorth"),
    ("SWITZERLAND_WEST", "switzerlandwest"),
    ("UK_SOUTH", "uksouth"),
    ("UK_WEST", "ukwest"),
    ("NORWAY_EAST", "norwayeast"),
    ("NORWAY_WEST", "norwaywest"),
    ("INDIA_CENTRAL", "centralindia"),
    ("INDIA_SOUTH", "southindia"),
    ("INDIA_WEST", "westindia"),
    ("CHINA_EAST", "chinaeast"),
    ("CHINA_NORTH", "chinanorth"),
    ("ASIA_EAST", "eastasia"),
    ("JAPAN_EAST", "japaneast"),
    ("JAPAN_WEST", "japanwest"),
    ("ASIA_SOUTH_EAST", "southeastasia"),
    ("KOREA_CENTRAL", "koreacentral"),
    ("KOREA_SOUTH", "koreasouth"),
    ("FRANCE_CENTRAL", "francecentral"),
    ("FRANCE_SOUTH", "francesouth"),
    ("SOUTH_AFRICA_NORTH", "southafricanorth"),
    ("SOUTH_AFRICA_WEST", "southafricawest"),
    ("UAE_CENTRAL", "uaecentral"),
    ("UAE_NORTH", "uaenorth"),
    ("QATAR_CENTRAL", "qatarcentral"),
    ("POLAND_CENTRAL", "polandcentral"),
    ("ISRAEL_CENTRAL", "israelcentral"),
    ("ITALY_NORTH", "italynorth"),
    ("SPAIN_CENTRAL", "spaincentral"),
    ("MEXICO_CENTRAL", "mexicocentral"),
    ("NEW_ZEALAND_NORTH", "newzealandnorth"),
    ("US_GOV_VIRGINIA", "usgovvirginia"),
    ("US_GOV_ARIZONA", "usgovarizona"),
    ("US_GOV_TEXAS", "usgovtexas"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_epoch_ms(minutes * 60_000)
    }

    fn step(status: EndpointStatus, seen: &Seen) -> (EndpointStatus, Step) {
        let next = next(status, at(0), seen, at(1));
        (next.status, next.step)
    }

    fn all_seen() -> Vec<Seen> {
        vec![
            Seen::Absent,
            Seen::Provisioning,
            Seen::ProvisioningFailed,
            Seen::Pending,
            Seen::Approved,
            Seen::Rejected { said: "no".into() },
            Seen::Disconnected,
            Seen::Unseen { why: "no answer".into() },
        ]
    }

    #[test]
    fn the_usual_way_leads_from_the_request_to_use() {
        use EndpointStatus::{Active, Initiating, PendingAcceptance};
        assert_eq!(step(Initiating, &Seen::Absent), (Initiating, Step::Create));
        assert_eq!(step(Initiating, &Seen::Provisioning), (Initiating, Step::Wait));
        assert_eq!(step(Initiating, &Seen::Pending), (PendingAcceptance, Step::Wait));
        assert_eq!(step(PendingAcceptance, &Seen::Pending), (PendingAcceptance, Step::Wait));
        assert_eq!(step(PendingAcceptance, &Seen::Approved), (Active, Step::Wait));
        assert_eq!(step(Active, &Seen::Approved), (Active, Step::Wait));
    }

    #[test]
    fn what_was_rejected_has_failed_and_says_so() {
        for status in [EndpointStatus::PendingAcceptance, EndpointStatus::Active] {
            let next = next(status, at(0), &Seen::Rejected { said: "not ours ".into() }, at(1));
            assert_eq!((next.status, next.step), (EndpointStatus::Failed, Step::Wait));
            assert_eq!(next.error_message.as_deref(), Some("The vault's owner rejected it: not ours"));
        }
    }

    #[test]
    fn what_was_removed_is_deleted_and_made_anew() {
        use EndpointStatus::{Active, Initiating, PendingRecreation};
        assert_eq!(step(Active, &Seen::Disconnected), (PendingRecreation, Step::Delete));
        assert_eq!(step(PendingRecreation, &Seen::Absent), (Initiating, Step::Create));
        assert_eq!(step(Active, &Seen::Absent), (PendingRecreation, Step::Create));
    }

    #[test]
    fn only_what_is_being_deleted_is_deleted_and_forgotten() {
        for seen in all_seen() {
            for status in EndpointStatus::ALL {
                let (after, step) = step(status, &seen);
                assert_eq!(
                    step == Step::Forget,
                    status == EndpointStatus::Deleting && seen == Seen::Absent,
                    "{status:?} {seen:?}"
                );
                assert_eq!(after == EndpointStatus::Deleting, status == EndpointStatus::Deleting);
                if step == Step::Delete {
                    let removed = seen == Seen::Disconnected;
                    assert!(status == EndpointStatus::Deleting || removed, "{status:?} {seen:?}");
                }
                if step == Step::Create {
                    assert_eq!(seen, Seen::Absent, "made only where there is none");
                }
            }
        }
    }

    /// Rule 3: not to see is not to know.
    #[test]
    fn not_being_able_to_look_changes_no_status_but_that_of_one_long_in_the_making() {
        let seen = Seen::Unseen { why: "ARM does not answer".into() };
        for status in EndpointStatus::ALL {
            let soon = next(status, at(0), &seen, at(30));
            assert_eq!((soon.status, soon.step), (status, Step::Wait));
            let late = next(status, at(0), &seen, at(31));
            let expected = if status == EndpointStatus::Initiating { EndpointStatus::Failed } else { status };
            assert_eq!(late.status, expected);
        }
        // A clock that was set back ends nothing.
        assert_eq!(next(EndpointStatus::Initiating, at(60), &seen, at(0)).status, EndpointStatus::Initiating);
    }

    #[test]
    fn a_failed_one_stays_until_it_is_deleted() {
        for seen in all_seen() {
            assert_eq!(step(EndpointStatus::Failed, &seen), (EndpointStatus::Failed, Step::Wait));
        }
    }

    #[test]
    fn regions_are_named_once() {
        let atlas: BTreeSet<_> = REGIONS.iter().map(|(name, _)| name).collect();
        let azure: BTreeSet<_> = REGIONS.iter().map(|(_, location)| location).collect();
        assert_eq!((atlas.len(), azure.len()), (REGIONS.len(), REGIONS.len()));
        assert_eq!(azure_location("US_EAST_2"), Some("eastus2"));
        assert_eq!(azure_location("eastus2"), None);
    }

    #[test]
    fn statuses_are_written_as_the_api_has_them() {
        for status in EndpointStatus::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }
}
