//! The rules for secrets by format, from what their issuers document.

use super::rules::{Check, Rule, Tier};

/// A token whose beginning says what it is.
const fn token(id: &'static str, words: &'static [&'static str], pattern: &'static str) -> Rule {
    Rule { id, words, pattern, tier: Tier::Certain, check: Check::None, hosts: &[] }
}

/// The same, with the hosts of its issuer: what goes there in a header of authorization is in its place.
const fn of(
    id: &'static str,
    words: &'static [&'static str],
    pattern: &'static str,
    hosts: &'static [&'static str],
) -> Rule {
    Rule { id, words, pattern, tier: Tier::Certain, check: Check::None, hosts }
}

/// A value that only the words beside it tell from others.
const fn beside(id: &'static str, words: &'static [&'static str], pattern: &'static str) -> Rule {
    Rule { id, words, pattern, tier: Tier::Context, check: Check::None, hosts: &[] }
}

#[expect(clippy::needless_pass_by_value, reason = "each rule is made for it")]
const fn checked(rule: Rule, check: Check) -> Rule {
    Rule { check, ..rule }
}

const GITHUB: &[&str] = &["github.com", "githubcopilot.com", "ghcr.io", "githubusercontent.com"];
const GITLAB: &[&str] = &["gitlab.com"];
const NPM: &[&str] = &["npmjs.org", "npmjs.com"];
const PYPI: &[&str] = &["pypi.org"];
const AWS: &[&str] = &["amazonaws.com", "aws"];
const SLACK: &[&str] = &["slack.com"];
const GOOGLE: &[&str] = &["googleapis.com", "google.com"];
const ANTHROPIC: &[&str] = &["anthropic.com", "claude.ai"];
const OPENAI: &[&str] = &["openai.com", "openai.azure.com"];

/// Between a word and its value: `=`, `:`, `=>`, quotes, the end of a tag, spaces. At most a dozen characters.
macro_rules! then {
    ($value:literal) => {
        concat!(r#"[A-Za-z0-9_.\-]{0,24}(?:["'`]|\\"|&quot;)?\]?[\s]{0,4}(?:=>|:=|[=:>,(]|value=|is)[\s>]{0,4}(?:["'`]|\\"|&quot;)?"#, "(", $value, ")", r"(?:[^A-Za-z0-9+/_\-]|$)")
    };
}

/// Every rule.
pub(super) static RULES: &[Rule] = &[
    // Source code and packages.
    checked(
        of("github_token", &["ghp_", "gho_", "ghu_", "ghs_", "ghr_"], r"gh[pousr]_([A-Za-z0-9]{36})", GITHUB),
        Check::Crc,
    ),
    of("github_fine_grained", &["github_pat_"], r"github_pat_([A-Za-z0-9]{22}_[A-Za-z0-9]{59})", GITHUB),
    of(
        "gitlab_token",
        &[
            "glpat-", "gldt-", "glrt-", "glcbt-", "glptt-", "glft-", "glimt-", "glagent-", "glsoat-",
            "glffct-",
        ],
        r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat|ffct)-([A-Za-z0-9_=.\-]{20,64})",
        GITLAB,
    ),
    of("gitlab_runner", &["GR1348941"], r"GR1348941([A-Za-z0-9_\-]{20})", GITLAB),
    checked(of("npm_token", &["npm_"], r"npm_([A-Za-z0-9]{36})", NPM), Check::Crc),
    of("pypi_token", &["pypi-AgE"], r"pypi-AgE([A-Za-z0-9_\-]{50,})", PYPI),
    of("rubygems_key", &["rubygems_"], r"rubygems_([a-f0-9]{48})", &["rubygems.org"]),
    token("crates_io_token", &["cio"], r"cio([A-Za-z0-9]{32})"),
    token("nuget_key", &["oy2"], r"oy2([a-z0-9]{43})"),
    token("docker_hub_token", &["dckr_pat_", "dckr_oat_"], r"dckr_(?:pat|oat)_([A-Za-z0-9_\-]{27,32})"),
    token("artifactory_key", &["AKCp"], r"AKCp([A-Za-z0-9]{60,110})"),
    token("artifactory_reference", &["cmVmdGtu"], r"cmVmdGtu([A-Za-z0-9]{56})"),
    token("clojars_token", &["CLOJARS_"], r"CLOJARS_([A-Za-z0-9]{60})"),
    token("hex_key", &["hex_"], r"hex_([a-f0-9]{32,64})"),
    token("bitbucket_token", &["ATBB", "ATCTT3xFfGN0"], r"(?:ATBB|ATCTT3xFfGN0)([A-Za-z0-9_\-=.]{24,200})"),
    token("atlassian_token", &["ATATT3"], r"ATATT3([A-Za-z0-9_\-=]{180,200})"),
    token(
        "sourcegraph_token",
        &["sgp_", "slk_"],
        r"(?:sgp|slk)_((?:[a-fA-F0-9]{16}_|local_)?[a-fA-F0-9]{40}|[a-f0-9]{64})",
    ),
    token("jfrog_identity", &["reftkn:"], r"reftkn:\d+:\d+:([A-Za-z0-9]{28})"),
    token("buildkite_token", &["bkua_", "bkat_"], r"bk(?:ua|at)_([a-f0-9]{40})"),
    token("circleci_token", &["CCIPAT_", "CCIPRJ_"], r"CCIP(?:AT|RJ)_([A-Za-z0-9]{22}_[a-f0-9]{40})"),
    token("codeclimate_token", &["CODECLIMATE"], r"CODECLIMATE[A-Z_]*=([a-f0-9]{64})"),
    token("scalingo_token", &["tk-us-"], r"tk-us-([A-Za-z0-9_\-]{48})"),
    token("infracost_key", &["ico-"], r"ico-([A-Za-z0-9]{32})"),
    token("prefect_key", &["pnu_"], r"pnu_([A-Za-z0-9]{36})"),
    token("pulumi_token", &["pul-"], r"pul-([a-f0-9]{40})"),
    token("terraform_token", &[".atlasv1."], r"([A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_\-=]{60,70})"),
    token("readme_key", &["rdme_"], r"rdme_([a-z0-9]{70})"),
    token("typeform_token", &["tfp_"], r"tfp_([A-Za-z0-9_\-.=]{40,59})"),
    token("postman_key", &["PMAK-"], r"PMAK-([a-f0-9]{24}-[a-f0-9]{34})"),
    token(
        "swaggerhub_key",
        &["swagger"],
        r#"swagger[A-Za-z_\-]{0,12}["']?\s*[=:]\s*["']?([a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12})"#,
    ),
    // Clouds.
    checked(
        of(
            "aws_access_key_id",
            &["AKIA", "ASIA", "ABIA", "ACCA"],
            r"(?:AKIA|ASIA|ABIA|ACCA)([A-Z2-7]{16})",
            AWS,
        ),
        Check::Example,
    ),
    of(
        "aws_bedrock_key",
        &["ABSK", "bedrock-api-key-"],
        r"(?:ABSK|bedrock-api-key-)([A-Za-z0-9+/=]{100,})",
        AWS,
    ),
    of(
        "aws_mws_token",
        &["amzn.mws."],
        r"amzn\.mws\.([a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12})",
        AWS,
    ),
    checked(
        beside(
            "aws_secret_key",
            &["aws", "secret_access_key", "secretaccesskey", "secret-access-key"],
            r#"(?i:aws|amazon|s3|secret[_\-]?access[_\-]?key)(?s:.{0,80}?)(?:["'`=:\s>])([A-Za-z0-9+/]{40})(?:[^A-Za-z0-9+/=]|$)"#,
        ),
        Check::Mixed,
    ),
    of("google_api_key", &["AIza"], r"AIza([A-Za-z0-9_\-]{35})", GOOGLE),
    of("google_oauth_secret", &["GOCSPX-"], r"GOCSPX-([A-Za-z0-9_\-]{28})", GOOGLE),
    of("google_oauth_token", &["ya29."], r"ya29\.([A-Za-z0-9_\-]{20,300})", GOOGLE),
    of("google_refresh_token", &["1//0"], r"1//0([A-Za-z0-9_\-]{40,100})", GOOGLE),
    beside(
        "google_client_secret",
        &["apps.googleusercontent.com"],
        r#"apps\.googleusercontent\.com(?s:.{0,120}?)(?i:secret)[^A-Za-z0-9]{1,8}([A-Za-z0-9_\-]{24})(?:[^A-Za-z0-9_\-]|$)"#,
    ),
    token(
        "google_service_account",
        &["private_key_id"],
        r#"private_key_id(?:"|\\")\s*:\s*(?:"|\\")([a-f0-9]{40})"#,
    ),
    token("gcs_hmac_key", &["GOOG1"], r"GOOG1([A-Z0-9]{20}|[A-Z0-9]{57})"),
    checked(
        token("azure_ad_secret", &["Q~"], r"([A-Za-z0-9_~.\-]{3}[0-9]Q~[A-Za-z0-9_~.\-]{31,34})"),
        Check::Mixed,
    ),
    checked(
        token(
            "azure_storage_key",
            &["AccountKey", "SharedAccessKey"],
            r"(?:AccountKey|SharedAccessKey)\s{0,3}=\s{0,3}([A-Za-z0-9+/]{42,100}={0,2})",
        ),
        Check::Mixed,
    ),
    token(
        "azure_devops_token",
        &["AZDO"],
        r"([A-Za-z0-9]{52}JQQJ9[A-Za-z0-9]{8,20}AZDO[A-Za-z0-9]{4}|[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4})(?:[^A-Za-z0-9]|$)",
    ),
    beside(
        "azure_devops_pat",
        &["azure", "ado_", "devops", "personalaccesstoken", "token"],
        r#"(?i:azure|ado|devops|vsts|tfs|personal_?access_?token|\$?token|pat)[A-Za-z0-9_\-]{0,20}["'\s]*[=:]\s*["']?([a-z2-7]{52})(?:[^a-z0-9]|$)"#,
    ),
    token("azure_sas", &["sig="], r"sv=20\d\d-\d\d-\d\d[^ ]{10,200}?[&?]sig=([A-Za-z0-9%+/]{43,}(?:%3D|=))"),
    token(
        "azure_apim_key",
        &["Apim", "APIM"],
        r"(?:Ocp-Apim-Subscription-Key|APIM)[^A-Za-z0-9]{1,8}([a-f0-9]{32})",
    ),
    token("digitalocean_token", &["dop_v1_", "doo_v1_", "dor_v1_"], r"do[opr]_v1_([a-f0-9]{64})"),
    token("alibaba_key", &["LTAI"], r"LTAI([A-Za-z0-9]{16,24})(?:[^A-Za-z0-9]|$)"),
    token("tencent_key", &["AKID"], r"AKID([A-Za-z0-9]{32})(?:[^A-Za-z0-9]|$)"),
    token(
        "ibm_cloud_key",
        &["ibm", "bluemix"],
        r#"(?i:ibm|bluemix)[A-Za-z_\-]{0,24}["'\s]*[=:]\s*["']?([A-Za-z0-9_\-]{44})(?:[^A-Za-z0-9_\-]|$)"#,
    ),
    token(
        "heroku_key",
        &["HRKU-"],
        r"HRKU-(AA[A-Za-z0-9_\-]{58}|[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12})",
    ),
    beside(
        "heroku_uuid",
        &["heroku"],
        concat!(
            r"(?i:heroku)",
            then!(r"[a-fA-F0-9]{8}-[a-fA-F0-9]{4}-[a-fA-F0-9]{4}-[a-fA-F0-9]{4}-[a-fA-F0-9]{12}")
        ),
    ),
    token(
        "flyio_token",
        &["fo1_", "fm1a_", "fm1r_", "fm2_"],
        r"(?:fo1_([A-Za-z0-9_\-]{43})|fm[12][ar]?_([A-Za-z0-9+/]{100,}={0,3}))",
    ),
    token("netlify_token", &["nfp_"], r"nfp_([A-Za-z0-9]{36,44})"),
    token(
        "vercel_token",
        &["vercel_", "vcp_", "vck_"],
        r"(?:vercel_blob_rw_|vcp_|vck_)([A-Za-z0-9_]{24,60})",
    ),
    token("supabase_key", &["sbp_", "sb_secret_"], r"(?:sbp_([a-f0-9]{40})|sb_secret_[A-Za-z0-9_\-]{31})"),
    token("planetscale_token", &["pscale_"], r"pscale_(?:tkn|oauth|pw)_([A-Za-z0-9_\-=.]{32,64})"),
    token("neon_key", &["napi_"], r"napi_([a-z0-9]{64})"),
    token("cloudflare_origin_ca", &["v1.0-"], r"v1\.0-([a-f0-9]{24}-[a-f0-9]{146})"),
    beside(
        "cloudflare_token",
        &["cloudflare", "cf_api", "cf-api"],
        concat!(r"(?i:cloudflare|cf[_\-]api)", then!(r"[A-Za-z0-9_\-]{40}|[a-f0-9]{37}")),
    ),
    token("databricks_token", &["dapi"], r"dapi([a-f0-9]{32}(?:-\d)?)"),
    token(
        "doppler_token",
        &["dp.ct.", "dp.pt.", "dp.st.", "dp.sa.", "dp.scim.", "dp.audit."],
        r"dp\.(?:ct|pt|sa|scim|audit|st(?:\.[a-z0-9\-_]{2,35})?)\.([A-Za-z0-9]{40,44})",
    ),
    token("vault_token", &["hvs.", "hvb.", "hvr."], r"hv[sb]\.([A-Za-z0-9_\-]{24,138})"),
    beside(
        "vault_legacy_token",
        &["vault"],
        r#"(?i:vault)[A-Za-z_\-]{0,24}["'\s]*[=:]\s*["']?([sbr]\.[A-Za-z0-9]{24})(?:[^A-Za-z0-9_\-]|$)"#,
    ),
    token("akeyless_key", &["p-"], r"akeyless[^A-Za-z0-9]{1,20}p-([a-z0-9]{12,14})"),
    token("onepassword_token", &["ops_eyJ"], r"ops_eyJ([A-Za-z0-9+/]{250,}={0,3})"),
    token(
        "onepassword_key",
        &["A3-"],
        r"A3-([A-Z0-9]{6}-(?:[A-Z0-9]{11}|[A-Z0-9]{6}-[A-Z0-9]{5})-[A-Z0-9]{5}-[A-Z0-9]{5}-[A-Z0-9]{5})",
    ),
    token(
        "kubernetes_token_secret",
        &["token-secret", "bootstrap-token", "BOOTSTRAP_TOKEN"],
        r"(?:token-secret:\s*([a-z0-9]{16})|(?i:bootstrap[_\-]token)[^a-z0-9]{1,4}[a-z0-9]{6}\.[a-z0-9]{16})",
    ),
    token("openshift_token", &["sha256~"], r"sha256~([A-Za-z0-9_\-]{43})(?:[^A-Za-z0-9_\-]|$)"),
    token("defined_networking_token", &["dnkey-"], r"dnkey-([a-z0-9=_\-]{26}-[a-z0-9=_\-]{52})"),
    token(
        "tailscale_key",
        &["tskey-"],
        r"tskey-(?:auth-|client-|api-|webhook-)?([A-Za-z0-9]{8,20}-[A-Za-z0-9]{20,40})",
    ),
    token("harness_key", &["pat.", "sat."], r"[ps]at\.([A-Za-z0-9]{22}\.[a-f0-9]{24}\.[A-Za-z0-9]{20})"),
    token("octopus_key", &["API-"], r"(?:^|[^A-Za-z0-9_\-])API-([A-Z0-9]{25,29})(?:[^A-Z0-9]|$)"),
    token(
        "scaleway_key",
        &["SCW"],
        r#"(?i:scw)[A-Z_]{0,20}["'\s]*[=:]\s*["']?(SCW[A-Z0-9]{17}|[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12})"#,
    ),
    // Models.
    of("anthropic_key", &["sk-ant-"], r"sk-ant-([A-Za-z0-9]{3,8}-[A-Za-z0-9_\-]{20,110})", ANTHROPIC),
    of("openai_key", &["T3BlbkFJ"], r"sk-([A-Za-z0-9_\-]{16,100}T3BlbkFJ[A-Za-z0-9_\-]{16,100})", OPENAI),
    of(
        "openai_project_key",
        &["sk-proj-", "sk-svcacct-", "sk-admin-"],
        r"sk-(?:proj|svcacct|admin)-([A-Za-z0-9_\-]{32,170})",
        OPENAI,
    ),
    token("openrouter_key", &["sk-or-"], r"sk-or-v1-([a-f0-9]{64})"),
    token("sk_key", &["sk-"], r"sk-([A-Za-z0-9]{32,64})(?:[^A-Za-z0-9_\-]|$)"),
    of(
        "huggingface_token",
        &["hf_", "api_org_"],
        r"(?:hf_|api_org_)([A-Za-z]{34}|[A-Za-z0-9]{34,37})(?:[^A-Za-z0-9]|$)",
        &["huggingface.co", "hf.co"],
    ),
    token("replicate_token", &["r8_"], r"r8_([A-Za-z0-9]{37})"),
    token("groq_key", &["gsk_"], r"gsk_([A-Za-z0-9]{52})"),
    token("xai_key", &["xai-"], r"xai-([A-Za-z0-9]{80})"),
    token("perplexity_key", &["pplx-"], r"pplx-([A-Za-z0-9]{48})"),
    token(
        "cohere_key",
        &["cohere", "CO_API_KEY"],
        concat!(r"(?i:cohere|co_api_key)", then!(r"[A-Za-z0-9]{40}")),
    ),
    token("langsmith_key", &["lsv2_"], r"lsv2_(?:pt|sk)_([a-f0-9]{32}_[a-f0-9]{10})"),
    token("wandb_key", &["wandb"], concat!(r"(?i:wandb)", then!(r"[a-f0-9]{40}"))),
    token("nvidia_key", &["nvapi-"], r"nvapi-([A-Za-z0-9_\-]{60,70})"),
    token(
        "deepgram_assembly_key",
        &["deepgram", "assemblyai"],
        concat!(r"(?i:deepgram|assemblyai)", then!(r"[a-f0-9]{32,40}")),
    ),
    token("pinecone_key", &["pcsk_"], r"pcsk_([A-Za-z0-9]{5,6}_[A-Za-z0-9]{60,70})"),
    token("tavily_key", &["tvly-"], r"tvly-(?:dev-|prod-)?([A-Za-z0-9_\-]{32,48})"),
    token("firecrawl_key", &["fc-"], r"fc-([a-f0-9]{32})(?:[^a-f0-9]|$)"),
    token("fireworks_key", &["fw_"], r"fw_([A-Za-z0-9]{22,24})(?:[^A-Za-z0-9]|$)"),
    // Messages.
    of(
        "slack_token",
        &["xoxa-", "xoxb-", "xoxp-", "xoxr-", "xoxs-", "xoxo-", "xoxe-", "xoxe.", "xapp-"],
        r"(?:xox[abprso]-(?:\d-)?(\d{8,14}-[A-Za-z0-9\-]{16,240})|xoxe(?:\.xox[bp])?-\d-([A-Za-z0-9]{100,180})|xapp-(\d-[A-Z0-9]{9,12}-\d{8,14}-[a-f0-9]{64}|\d{8,14}-[A-Za-z0-9/]{20,40}))",
        SLACK,
    ),
    of(
        "slack_webhook",
        &["hooks.slack.com"],
        r"hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9+/]{20,80})",
        SLACK,
    ),
    token(
        "discord_webhook",
        &["/api/webhooks/"],
        r"discord(?:app)?\.com/api/webhooks/(\d{17,20}/[A-Za-z0-9_\-]{60,80})",
    ),
    token(
        "discord_token",
        &["discord", "Bot "],
        r"(?:^|[^A-Za-z0-9_\-])([MNO][A-Za-z0-9_\-]{23,27}\.[A-Za-z0-9_\-]{6}\.[A-Za-z0-9_\-]{27,38})(?:[^A-Za-z0-9_\-]|$)",
    ),
    token(
        "telegram_token",
        &[":AA", "bot"],
        r"(?:^|[^0-9])(\d{8,10}:AA[A-Za-z0-9_\-]{32,33})(?:[^A-Za-z0-9_\-]|$)",
    ),
    token(
        "teams_webhook",
        &["webhook.office.com", "outlook.office.com/webhook"],
        r"(?:webhook\.office\.com/webhookb2|outlook\.office\.com/webhook)/([a-f0-9]{8}-[A-Za-z0-9@\-/]{80,200})",
    ),
    token("twilio_key", &["SK"], r#"(?i:twilio)(?s:.{0,80}?)(SK[a-f0-9]{32})(?:[^A-Za-z0-9]|$)"#),
    token("twilio_key_alone", &["SK"], r"(?:^|[^A-Za-z0-9])(SK[a-f0-9]{32})(?:[^A-Za-z0-9]|$)"),
    token("sendgrid_key", &["SG."], r"SG\.([A-Za-z0-9_\-]{20,24}\.[A-Za-z0-9_\-]{39,50})"),
    token(
        "mailgun_key",
        &["key-", "pubkey-"],
        r"(?:^|[^A-Za-z0-9_\-])(?:pub)?key-([a-f0-9]{32})(?:[^A-Za-z0-9]|$)",
    ),
    token(
        "mailgun_signing_key",
        &["mailgun"],
        r"(?i:mailgun)[^\n]{0,40}?([a-f0-9]{32}-[a-f0-9]{8}-[a-f0-9]{8})",
    ),
    token("mailchimp_key", &["-us"], r"(?:^|[^a-f0-9])([a-f0-9]{32}-us\d{1,2})(?:[^A-Za-z0-9]|$)"),
    token("sendinblue_key", &["xkeysib-", "xsmtpsib-"], r"x(?:key|smtp)sib-([a-f0-9]{64}-[A-Za-z0-9]{16})"),
    token(
        "postmark_token",
        &["postmark"],
        concat!(r"(?i:postmark)", then!(r"[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}")),
    ),
    token("messagebird_key", &["messagebird"], concat!(r"(?i:message[_\-]?bird)", then!(r"[A-Za-z0-9]{25}"))),
    token("mattermost_token", &["mattermost"], concat!(r"(?i:mattermost)", then!(r"[a-z0-9]{26}"))),
    token("plivo_key", &["plivo"], r"(?i:plivo)(?s:.{0,40}?)(MA[A-Z0-9]{18})"),
    token("resend_key", &["re_"], r"re_([A-Za-z0-9]{8}_[A-Za-z0-9]{24})"),
    token("onesignal_key", &["os_v2_"], r"os_v2_(?:app|org)_([a-z0-9]{100,110})"),
    // Payment.
    of(
        "stripe_key",
        &["sk_live_", "rk_live_", "sk_test_", "rk_test_", "sk_prod_", "rk_prod_"],
        r"[sr]k_(?:live|test|prod)_([A-Za-z0-9]{10,99})",
        &["stripe.com"],
    ),
    token("stripe_webhook_secret", &["whsec_"], r"whsec_([A-Za-z0-9+/=]{24,64})"),
    token(
        "square_token",
        &["sq0atp-", "sq0csp-", "EAAA"],
        r"(?:sq0(?:atp|csp)-([A-Za-z0-9_\-]{22,43})|EAAA([A-Za-z0-9_\-+=]{56,60}))(?:[^A-Za-z0-9_\-]|$)",
    ),
    token(
        "shopify_token",
        &["shpat_", "shpca_", "shppa_", "shpss_", "shptka_"],
        r"shp(?:at|ca|pa|ss|tka)_([a-fA-F0-9]{32})",
    ),
    token(
        "braintree_token",
        &["access_token$"],
        r"access_token\$(?:production|sandbox)\$([a-z0-9]{16}\$[a-f0-9]{32})",
    ),
    token(
        "paypal_secret",
        &["paypal"],
        r#"(?i:paypal)[A-Za-z_\-]{0,20}(?i:secret)["'\s]*[=:]\s*["']?(E[A-Za-z0-9_\-]{79})"#,
    ),
    token("flutterwave_key", &["FLWSECK", "FLWPUBK"], r"FLWSECK(?:_TEST)?-([a-hA-H0-9]{12,32}-X)"),
    token(
        "plaid_token",
        &["access-sandbox-", "access-development-", "access-production-"],
        r"access-(?:sandbox|development|production)-([a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12})",
    ),
    token("duffel_key", &["duffel_"], r"duffel_(?:test|live)_([A-Za-z0-9_\-=]{43})"),
    token("easypost_key", &["EZAK", "EZTK"], r"EZ[AT]K([A-Za-z0-9]{54})"),
    token("shippo_token", &["shippo_"], r"shippo_(?:live|test)_([a-fA-F0-9]{40})"),
    token(
        "lob_key",
        &["live_", "test_"],
        r"(?:^|[^A-Za-z0-9_])(?:live|test)_(?:pub_)?([a-f0-9]{31,35})(?:[^A-Za-z0-9]|$)",
    ),
    token("gocardless_token", &["live_"], r"(?i:gocardless)[^\n]{0,40}live_([A-Za-z0-9_\-=]{40})"),
    token("coinbase_key", &["coinbase"], concat!(r"(?i:coinbase)", then!(r"[A-Za-z0-9_\-]{64}"))),
    token(
        "finicity_freshbooks",
        &["finicity", "freshbooks", "adobe", "p8e-"],
        r"(?:p8e-([A-Za-z0-9]{32})|(?i:finicity|freshbooks)[^\n]{0,30}?[=:][^A-Za-z0-9]{1,4}([a-f0-9]{64}|[a-f0-9]{32}))",
    ),
    // Observing.
    token(
        "grafana_token",
        &["glc_", "glsa_"],
        r"(?:glc_([A-Za-z0-9+/]{32,400}={0,3})|glsa_([A-Za-z0-9]{32}_[a-fA-F0-9]{8}))",
    ),
    token("grafana_legacy_key", &["eyJrIjoi"], r"eyJrIjoi([A-Za-z0-9+/]{60,400}={0,3})"),
    token(
        "newrelic_key",
        &["NRAK-", "NRAA-", "NRIQ-", "NRII-", "NRJS-", "NRRA-"],
        r"NR(?:AK|IQ|II)-([A-Za-z0-9_\-]{25,32})|NRAA-([a-f0-9]{27})|NRRA-([a-f0-9]{42})|NRJS-([a-f0-9]{19})",
    ),
    token("newrelic_license", &["NRAL"], r"([a-f0-9]{36}NRAL)"),
    token(
        "datadog_key",
        &["datadog", "dd_api", "dd-api", "dd_app"],
        concat!(r"(?i:datadog|dd[_\-]ap[pi])", then!(r"[a-f0-9]{40}|[a-f0-9]{32}")),
    ),
    token("dynatrace_token", &["dt0"], r"dt0[a-z]\d{2}\.([A-Z0-9]{24}\.[A-Z0-9]{64})"),
    token(
        "sentry_token",
        &["sntrys_", "sntryu_"],
        r"(?:sntryu_([a-f0-9]{64})|sntrys_eyJ([A-Za-z0-9+/=_]{60,}))",
    ),
    token("honeycomb_key", &["hcaik_", "hcaic_"], r"hcai[kc]_([a-z0-9]{58})"),
    token(
        "sumologic_key",
        &["sumo"],
        r#"(?i:sumo)[A-Za-z_\-]{0,24}["'\s]*[=:]\s*["']?([A-Za-z0-9]{64}|su[A-Za-z0-9]{12})(?:[^A-Za-z0-9]|$)"#,
    ),
    token(
        "sonar_token",
        &["squ_", "sqp_", "sqa_", "sonar"],
        r"(?:sq[upa]_([a-f0-9]{40})|(?i:sonar)[A-Za-z_.\-]{0,24}[^A-Za-z0-9]{1,4}([a-f0-9]{40}))",
    ),
    token(
        "snyk_token",
        &["snyk"],
        concat!(r"(?i:snyk)", then!(r"[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}")),
    ),
    token(
        "launchdarkly_key",
        &["sdk-", "api-", "mob-"],
        r"(?:^|[^A-Za-z0-9_\-])(?:sdk|api|mob)-([a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12})",
    ),
    token("posthog_key", &["phx_", "phc_"], r"ph[xc]_([A-Za-z0-9]{43})"),
    token(
        "logz_segment_key",
        &["sgp_", "logz", "segment"],
        concat!(r"(?i:logz|segment)", then!(r"[A-Za-z]{32}|[A-Za-z0-9]{40,43}")),
    ),
    token(
        "opsgenie_pagerduty_key",
        &["opsgenie", "pagerduty", "pdt", "pd_"],
        concat!(
            r"(?i:opsgenie|pagerduty|pd_(?:api_)?token)",
            then!(
                r"[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}|[a-z0-9]{32}|[A-Za-z0-9_+\-]{20}"
            )
        ),
    ),
    // Services of all kinds.
    token(
        "notion_token",
        &["ntn_", "secret_"],
        r"(?:ntn_([A-Za-z0-9]{43,46})|secret_([A-Za-z0-9]{43}))(?:[^A-Za-z0-9]|$)",
    ),
    token("airtable_token", &["pat"], r"pat([A-Za-z0-9]{14}\.[a-f0-9]{64})"),
    token(
        "asana_token",
        &["asana"],
        r#"(?i:asana)[^\n]{0,40}?[=:][^A-Za-z0-9]{1,4}(\d/\d{16}:[a-f0-9]{32}|[A-Za-z0-9]{32})(?:[^A-Za-z0-9]|$)"#,
    ),
    token("linear_key", &["lin_api_", "lin_oauth_"], r"lin_(?:api|oauth)_([A-Za-z0-9]{40,64})"),
    token(
        "figma_token",
        &["figd_", "X-Figma-Token"],
        r"(?:fig[dour]+_([A-Za-z0-9_\-]{40})|(?i:figma)[^\n]{0,16}[=: ]{1,3}(\d{4,6}-[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}))",
    ),
    token(
        "dropbox_token",
        &["sl.", "dropbox"],
        r"(?:sl\.(?:u\.)?([A-Za-z0-9_\-]{130,1300})|(?i:dropbox)[^\n]{0,40}?[=:][^A-Za-z0-9]{1,4}([a-z0-9]{11}AAAAAAAAAA[A-Za-z0-9_\-=]{43}|[a-z0-9]{15})(?:[^A-Za-z0-9]|$))",
    ),
    token("contentful_token", &["CFPAT-"], r"CFPAT-([A-Za-z0-9_\-]{43})"),
    token("algolia_key", &["algolia"], concat!(r"(?i:algolia)", then!(r"[a-f0-9]{32}"))),
    token("adafruit_key", &["aio_"], r"aio_([A-Za-z0-9]{28})"),
    token(
        "mapbox_token",
        &["sk.eyJ", "mapbox"],
        r"(?:sk\.eyJ([A-Za-z0-9_\-]{20,240}\.[A-Za-z0-9_\-]{22})|(?i:mapbox)[^\n]{0,40}(pk\.[A-Za-z0-9]{60}\.[A-Za-z0-9]{22}))",
    ),
    token(
        "facebook_token",
        &["EAACEdEose0cBA", "EAAM", "EAAG", "EAAC", "facebook"],
        r"(?:EAA(?:CEdEose0cBA|[MCG])([A-Za-z0-9]{60,250})|(?i:facebook)[A-Za-z_\-]{0,20}(?i:secret)[^A-Za-z0-9]{1,6}([a-f0-9]{32}))",
    ),
    beside(
        "twitter_secret",
        &["twitter", "tweepy"],
        r#"(?i:twitter|tweepy)(?s:.{0,60}?)["'\s=:]([A-Za-z0-9]{41,45}|\d{15,25}-[A-Za-z0-9]{20,40})(?:[^A-Za-z0-9]|$)"#,
    ),
    token("twitter_bearer", &["AAAAAAAAAAAAAAAAAAAAA"], r"A{20,24}([A-Za-z0-9%]{60,110})"),
    beside(
        "linkedin_secret",
        &["linkedin"],
        r#"(?i:linkedin)[A-Za-z_\-]{0,20}(?i:secret)[^A-Za-z0-9]{1,6}([A-Za-z0-9]{16})(?:[^A-Za-z0-9]|$)"#,
    ),
    beside(
        "github_client_secret",
        &["github"],
        r#"(?i:github)[A-Za-z0-9_\-.]{0,24}["'\s]*(?:=>|[=:,])[\s"']{0,4}([a-f0-9]{40})(?:[^A-Za-z0-9]|$)"#,
    ),
    beside("okta_token", &["okta"], concat!(r"(?i:okta)", then!(r"00[A-Za-z0-9_\-]{40}"))),
    token("salesforce_session", &["00D"], r"(00D[A-Za-z0-9]{12,15}![A-Za-z0-9._]{80,130})"),
    token(
        "zendesk_intercom_key",
        &["zendesk", "intercom"],
        concat!(r"(?i:zendesk|intercom)", then!(r"[A-Za-z0-9]{40}|[A-Za-z0-9_=\-]{60}")),
    ),
    token(
        "hubspot_key",
        &["pat-na1-", "pat-eu1-", "pat-na2-", "hubspot"],
        r"(?:pat-(?:na|eu)\d-([a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12})|(?i:hubspot)[A-Za-z_\-]{0,20}[^A-Za-z0-9]{1,6}([a-fA-F0-9]{8}-[a-fA-F0-9]{4}-[a-fA-F0-9]{4}-[a-fA-F0-9]{4}-[a-fA-F0-9]{12}))",
    ),
    token("frameio_token", &["fio-u-"], r"fio-u-([A-Za-z0-9\-_=]{64})"),
    token("beamer_key", &["b_"], r"(?i:beamer)[^\n]{0,30}(b_[A-Za-z0-9=_\-]{44})"),
    token(
        "blynk_token",
        &["blynk", "oa2-client-id_"],
        r"(?:blynk(?:-cloud)?\.(?:cloud|com)/external/api/[a-z/]{1,30}\?token=([A-Za-z0-9_\-]{32})|oa2-client-id_[A-Za-z0-9_\-]{32}(?::|&client_secret=)([A-Za-z0-9_\-]{40}))",
    ),
    token(
        "nasa_particle_key",
        &["api.nasa.gov", "particle.io"],
        r"(?:api\.nasa\.gov[^\s]{0,100}api_key=([A-Za-z0-9]{40})|(?s:(?i:Bearer |access_token=)([a-f0-9]{40}).{0,60}?api\.particle\.io|api\.particle\.io.{0,80}?(?i:Bearer |access_token=)([a-f0-9]{40})))",
    ),
    token(
        "particle_before",
        &["api.particle.io"],
        r"(?s:(?i:Bearer |access_token=)([a-f0-9]{40}).{0,60}?api\.particle\.io)",
    ),
    token(
        "thingsboard_secret",
        &["provisionDevice", "thingsboard"],
        r#"(?:provisionDevice(?:Key|Secret)(?:["']|\\")\s*:\s*(?:["']|\\")([a-z0-9]{20})|(?i:thingsboard)[^\n]{0,40}[=:/]["']?([A-Za-z0-9]{20})(?:[^A-Za-z0-9]|$))"#,
    ),
    token(
        "truenas_key",
        &["auth.login_with_api_key"],
        r#"auth\.login_with_api_key(?s:.{0,60}?)(\d+-[A-Za-z0-9]{64})"#,
    ),
    token(
        "jenkins_token",
        &["jenkins"],
        r"(?i:jenkins)(?s:.{0,80}?)(?:[^A-Za-z0-9])(11[a-f0-9]{32}|[a-f0-9]{32}|[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}|[a-f0-9]{64})(?:[^A-Za-z0-9\-]|$)",
    ),
    token(
        "teamcity_encrypted",
        &["eyJ0eXAiOiAiVENWMiJ9"],
        r"eyJ0eXAiOiAiVENWMiJ9\.([A-Za-z0-9_\-]{20,40}\.[A-Za-z0-9_\-]{40,60})",
    ),
    token("settlemint_key", &["sm_aat_", "sm_pat_", "sm_sat_"], r"sm_[aps]at_([A-Za-z0-9]{16})"),
    token(
        "sidekiq_key",
        &["BUNDLE_", "contribsys"],
        r"(?i:BUNDLE_(?:ENTERPRISE|GEMS)__CONTRIBSYS__COM)[^a-f0-9]{1,6}([a-f0-9]{8}:[a-f0-9]{8})",
    ),
    token(
        "yandex_key",
        &["AQVN", "t1.", "YC"],
        r"(?:^|[^A-Za-z0-9])(AQVN[A-Za-z0-9_\-]{35,38}|t1\.[A-Z0-9a-z_\-]+={0,2}\.[A-Z0-9a-z_\-]{86}={0,2})(?:[^A-Za-z0-9]|$)",
    ),
    token("snapchat_shodan_etc", &["shodan"], concat!(r"(?i:shodan)", then!(r"[A-Za-z0-9]{32}"))),
    token(
        "virustotal_key",
        &["virustotal", "vt_api"],
        concat!(r"(?i:virustotal|vt[_\-]api)", then!(r"[a-f0-9]{64}")),
    ),
    token(
        "dockerconfig_auth",
        &["\"auths\"", "auths\\\""],
        r#"auth(?:"|\\")\s*:\s*(?:"|\\")([A-Za-z0-9+/]{20,}={0,2})(?:"|\\")"#,
    ),
    token("netrc_login", &["machine "], r"machine\s+\S+\s+login\s+\S+\s+password\s+(\S{6,})"),
    // Keys and passwords by their form.
    checked(
        token(
            "private_key",
            &["PRIVATE KEY"],
            r"-----BEGIN (?:[A-Z0-9]{2,10} ){0,2}PRIVATE KEY(?: BLOCK)?-----(?:(?s:.{0,300}?)([A-Za-z0-9+/]{40,})|((?:\s|\\[rn])*)$)?",
        ),
        Check::Body,
    ),
    token("putty_key", &["PuTTY-User-Key-File"], r"PuTTY-User-Key-File-[23]: "),
    token("age_key", &["AGE-SECRET-KEY-1"], r"AGE-SECRET-KEY-1([QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58})"),
    token("age_post_quantum_key", &["AGE-SECRET-KEY-PQ-1"], r"AGE-SECRET-KEY-PQ-1([A-Z0-9]{58})"),
    beside(
        "wireguard_key",
        &["PrivateKey", "PresharedKey"],
        r"(?:PrivateKey|PresharedKey)\s*=\s*([A-Za-z0-9+/]{43}=)",
    ),
    checked(
        token(
            "jwt_signed",
            &["eyJ"],
            r"(?:^|[^A-Za-z0-9_\-.])(eyJ[A-Za-z0-9_\-]{10,2000}\.eyJ[A-Za-z0-9_\-]{10,8000}\.[A-Za-z0-9_\-]{20,1000})",
        ),
        Check::Token,
    ),
    beside(
        "url_password",
        &["://"],
        r#"(?:mongodb(?:\+srv)?|postgres(?:ql)?|mysql|mariadb|redis(?:s)?|amqps?|mqtts?|ldaps?|smtps?|s?ftp|ssh|https?|rediss|nats|clickhouse|sqlserver|jdbc:[a-z]+)://[^\s:/?#@"'<>]{1,80}:([^\s/?#@"'<>$%{][^\s/?#"'<>]{2,80})@[A-Za-z0-9\[][^\s/?#@"'<>]{0,250}(?:[\s/?#"'<>]|$)"#,
    ),
    checked(
        beside(
            "connection_string",
            &["Password=", "password=", "Pwd=", "pwd=", "PWD="],
            r#"(?i:server|data source|host|provider|driver)=(?s:.{0,250}?)(?i:password|pwd)\s{0,3}=\s{0,3}([^;"'\s{}<>\\]{6,64})[;"'\\]"#,
        ),
        Check::NotWord,
    ),
    token(
        "password_hash",
        &["$1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "$y$", "$argon2", "$pbkdf2"],
        r"\$(?:1\$[A-Za-z0-9./]{1,8}\$[A-Za-z0-9./]{22}|2[aby]\$\d{2}\$[A-Za-z0-9./]{53}|5\$(?:rounds=\d+\$)?[A-Za-z0-9./]{1,16}\$[A-Za-z0-9./]{43}|6\$(?:rounds=\d+\$)?[A-Za-z0-9./]{1,16}\$[A-Za-z0-9./]{86}|y\$[A-Za-z0-9./]{1,20}\$[A-Za-z0-9./]{1,86}\$[A-Za-z0-9./]{43}|argon2(?:id|i|d)\$v=\d+\$[a-z0-9=,]+\$[A-Za-z0-9+/]{8,}\$[A-Za-z0-9+/]{16,})",
    ),
    checked(
        beside(
            "assignment",
            &[
                "secret",
                "token",
                "passw",
                "pwd",
                "api_key",
                "apikey",
                "api-key",
                "access_key",
                "accesskey",
                "auth_key",
                "private_key",
                "client_secret",
                "credential",
                "encryption_key",
            ],
            concat!(
                r"(?i:secret|token|passw(?:or)?d|pwd|api[_\-]?key|access[_\-]?key|auth[_\-]?key|credential|encryption[_\-]?key)",
                then!(r"[A-Za-z0-9+/_\-.~!#$%^&*=]{12,200}")
            ),
        ),
        Check::Random,
    ),
];
