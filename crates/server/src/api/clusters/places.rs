//! Where clusters can be and how large, by Atlas' names. keyward's hosts are their owner's: the names are checked
//! and echoed, so that a misspelt one is refused here as Atlas would.

/// A cloud provider.
pub(crate) struct Provider {
    /// `AWS`, `AZURE`, `GCP`.
    pub(crate) name: &'static str,
    /// Its regions; the first is the usual one.
    pub(crate) regions: &'static [&'static str],
    /// Sizes of dedicated nodes.
    pub(crate) sizes: &'static [&'static str],
}

/// The provider of this name.
pub(crate) fn provider(name: &str) -> Option<&'static Provider> {
    PROVIDERS.iter().find(|provider| provider.name == name)
}

/// Whether a size belongs to a shared or serverless offer, which has no customer keys.
pub(crate) fn is_shared(size: &str) -> bool {
    matches!(size, "M0" | "M2" | "M5" | "FLEX")
}

/// All providers.
#[rustfmt::skip]
pub(crate) const PROVIDERS: &[Provider] = &[
    Provider {
        name: "AWS",
        regions: &[
            "US_EAST_1", "US_EAST_2", "US_WEST_1", "US_WEST_2", "US_GOV_EAST_1", "US_GOV_WEST_1", "CA_CENTRAL_1", "CA_WEST_1",
            "SA_EAST_1", "MX_CENTRAL_1", "EU_CENTRAL_1", "EU_CENTRAL_2", "EU_NORTH_1", "EU_SOUTH_1", "EU_SOUTH_2", "EU_WEST_1",
            "EU_WEST_2", "EU_WEST_3", "AF_SOUTH_1", "IL_CENTRAL_1", "ME_CENTRAL_1", "ME_SOUTH_1", "AP_EAST_1", "AP_EAST_2",
            "AP_NORTHEAST_1", "AP_NORTHEAST_2", "AP_NORTHEAST_3", "AP_SOUTH_1", "AP_SOUTH_2", "AP_SOUTHEAST_1", "AP_SOUTHEAST_2",
            "AP_SOUTHEAST_3", "AP_SOUTHEAST_4", "AP_SOUTHEAST_5", "AP_SOUTHEAST_6", "AP_SOUTHEAST_7", "CN_NORTH_1", "CN_NORTHWEST_1",
        ],
        sizes: &[
            "M10", "M20", "M30", "M40", "M50", "M60", "M80", "M100", "M140", "M200", "M300", "R40", "R50", "R60", "R80", "R200",
            "R300", "R400", "R700", "M40_NVME", "M50_NVME", "M60_NVME", "M80_NVME", "M200_NVME", "M400_NVME",
        ],
    },
    Provider {
        name: "AZURE",
        regions: &[
            "US_EAST_2", "US_EAST", "US_CENTRAL", "US_NORTH_CENTRAL", "US_SOUTH_CENTRAL", "US_WEST", "US_WEST_2", "US_WEST_3",
            "US_WEST_CENTRAL", "US_GOV_ARIZONA", "US_GOV_TEXAS", "US_GOV_VIRGINIA", "CANADA_CENTRAL", "CANADA_EAST", "MEXICO_CENTRAL",
            "BRAZIL_SOUTH", "BRAZIL_SOUTHEAST", "EUROPE_NORTH", "EUROPE_WEST", "FRANCE_CENTRAL", "FRANCE_SOUTH", "GERMANY_NORTH",
            "GERMANY_WEST_CENTRAL", "ITALY_NORTH", "NORWAY_EAST", "NORWAY_WEST", "POLAND_CENTRAL", "SPAIN_CENTRAL", "SWEDEN_CENTRAL",
            "SWEDEN_SOUTH", "SWITZERLAND_NORTH", "SWITZERLAND_WEST", "UK_SOUTH", "UK_WEST", "ISRAEL_CENTRAL", "QATAR_CENTRAL",
            "UAE_CENTRAL", "UAE_NORTH", "SOUTH_AFRICA_NORTH", "SOUTH_AFRICA_WEST", "ASIA_EAST", "ASIA_SOUTH_EAST", "INDIA_CENTRAL",
            "INDIA_SOUTH", "INDIA_WEST", "JAPAN_EAST", "JAPAN_WEST", "KOREA_CENTRAL", "KOREA_SOUTH", "CHINA_EAST", "CHINA_NORTH",
            "AUSTRALIA_CENTRAL", "AUSTRALIA_CENTRAL_2", "AUSTRALIA_EAST", "AUSTRALIA_SOUTH_EAST", "NEW_ZEALAND_NORTH",
        ],
        sizes: &[
            "M10", "M20", "M30", "M40", "M50", "M60", "M80", "M90", "M200", "R40", "R50", "R60", "R80", "R200", "R300", "R400",
            "M60_NVME", "M80_NVME", "M200_NVME", "M300_NVME", "M400_NVME", "M600_NVME",
        ],
    },
    Provider {
        name: "GCP",
        regions: &[
            "CENTRAL_US", "EASTERN_US", "US_EAST_4", "US_EAST_5", "US_SOUTH_1", "WESTERN_US", "US_WEST_2", "US_WEST_3", "US_WEST_4",
            "NORTH_AMERICA_NORTHEAST_1", "NORTH_AMERICA_NORTHEAST_2", "NORTH_AMERICA_SOUTH_1", "SOUTH_AMERICA_EAST_1",
            "SOUTH_AMERICA_WEST_1", "WESTERN_EUROPE", "EUROPE_CENTRAL_2", "EUROPE_NORTH_1", "EUROPE_SOUTHWEST_1", "EUROPE_WEST_2",
            "EUROPE_WEST_3", "EUROPE_WEST_4", "EUROPE_WEST_6", "EUROPE_WEST_8", "EUROPE_WEST_9", "EUROPE_WEST_10", "EUROPE_WEST_12",
            "MIDDLE_EAST_CENTRAL_1", "MIDDLE_EAST_CENTRAL_2", "MIDDLE_EAST_WEST_1", "AFRICA_SOUTH_1", "ASIA_EAST_2",
            "ASIA_NORTHEAST_2", "ASIA_NORTHEAST_3", "ASIA_SOUTH_1", "ASIA_SOUTH_2", "ASIA_SOUTHEAST_2", "EASTERN_ASIA_PACIFIC",
            "NORTHEASTERN_ASIA_PACIFIC", "SOUTHEASTERN_ASIA_PACIFIC", "AUSTRALIA_SOUTHEAST_1", "AUSTRALIA_SOUTHEAST_2",
        ],
        sizes: &[
            "M10", "M20", "M30", "M40", "M50", "M60", "M80", "M140", "M200", "M250", "M300", "M400", "R40", "R50", "R60", "R80",
            "R200", "R300", "R400", "R600",
        ],
    },
];
