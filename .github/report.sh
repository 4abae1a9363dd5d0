#!/usr/bin/env bash
# What the workspace changes against a revision: dvc_plots/report.md, with the plots beside it.
# FIGURES_URL, where it is set, is an address below which a commit's files are found as COMMIT/PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
export COLUMNS=400 # else dvc cuts its tables
base=${1:-main}
before=$(git rev-parse --quiet --verify --short=10 "$base^{commit}") || {
    echo "report: there is no revision $base; name one: make report BASE=main" >&2
    exit 1
}
after=${HEAD_COMMIT:-$(git rev-parse HEAD)}
report=dvc_plots/report.md

settings=$(dvc params diff --md "$before")
metrics=$(dvc metrics diff --md "$before")
rm -rf dvc_plots # the figures of another comparison
dvc plots diff --out dvc_plots "$before" > /dev/null

# A table of dvc's, or what to say where it has only a head.
table() {
    if [ "$(wc -l <<< "$1")" -gt 2 ]; then echo "$1"; else echo "$2"; fi
}

# Those in git, so that a page can show them by their commits' addresses.
figures() {
    echo "| figure | before | after |"
    echo "| --- | --- | --- |"
    git diff --name-only --diff-filter=M "$before" -- 'metrics/plots/*.png' | while read -r figure; do
        printf '| %s |' "$(basename "$figure" .png)"
        for commit in "$before" "$after"; do
            printf ' <img width="400" alt="%s" src="%s"> |' "$figure" "$FIGURES_URL/$commit/$figure"
        done
        echo
    done
}

{
    echo "## What this changes"
    echo
    echo "Against $before. How to read this: \`docs/ci.md\`."
    echo
    if git diff --quiet HEAD -- metrics; then
        committed=true
    else
        committed=false
        echo "> **These are not the committed results.** The pipeline ran here, and found others:"
        echo "> \`dvc repro\` was not run before the commit, or it ran on a GPU."
        echo
    fi
    echo "### Settings"
    echo
    table "$settings" "No setting changed."
    echo
    echo "### Metrics"
    echo
    table "$metrics" "No metric changed."
    echo
    echo "### Figures"
    echo
    if git diff --quiet "$before" -- metrics/plots; then
        echo "No figure changed."
    elif [ -n "${FIGURES_URL:-}" ] && $committed; then
        figures
    else
        echo "All plots, side by side: \`dvc_plots/index.html\`."
    fi
} > "$report"
echo "$report"
