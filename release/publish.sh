#!/usr/bin/env bash
# Pushes the image and the chart of dist/ to ghcr.io, and makes the release on GitHub
# with everything in dist/. It runs where the release workflow does, with that
# machine's skopeo, helm and gh. usage: release/publish.sh VERSION
set -euo pipefail
cd "$(dirname "$0")/../dist"
version=$1 registry=ghcr.io/cni-none
: "${GITHUB_TOKEN:?}" "${GITHUB_ACTOR:?}"
skopeo login ghcr.io --username "$GITHUB_ACTOR" --password-stdin <<<"$GITHUB_TOKEN"
skopeo copy --all oci-archive:cni-none-image.oci.tar "docker://$registry/cni-none:$version"
helm registry login ghcr.io --username "$GITHUB_ACTOR" --password-stdin <<<"$GITHUB_TOKEN"
helm push cni-none-[0-9]*.tgz "oci://$registry/charts"
gh release create "$version" --verify-tag --generate-notes -- *
