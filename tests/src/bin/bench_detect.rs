//! `cargo xtask bench --detect`: what detection costs, as a table in Markdown.

use agentnet_tests::bench::detect;

fn main() -> anyhow::Result<()> {
    let packets = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1_500_000);
    println!(
        "One core; a release build; nothing is sent.\n\n| measure | result | goal |\n| --- | ---: | --- |"
    );
    for (what, result, goal) in detect::measure(packets)? {
        println!("| {what} | {result} | {goal} |");
    }
    Ok(())
}
