#!/usr/bin/env bash
# Test the installed wheel from a folder that holds nothing of the source tree.
# Usage: tests/wheel/run.sh VENV_WITH_WHEEL VENV_WITH_DEPENDENCIES
set -euo pipefail
python=$(cd "$1" && pwd)/bin/python
packages=$("$2/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here"
# Dependencies come after the wheel's own site-packages; the editable install's finder is not active there.
echo "$packages" > "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth"
location=$("$python" -c 'import sparsepo_plugin; print(sparsepo_plugin.__file__)')
case "$location" in
  */build/wheel/venv/*) ;;
  *) echo "error: imported $location, expected the installed wheel"; exit 1 ;;
esac
"$(dirname "$python")/sparsepo" --version
# Not through a pipe: grep -q closes it at the first match, and the writer fails.
"$(dirname "$python")/sparsepo" ls > losses.txt
grep -q -- "--sparsepo.masks" losses.txt
"$(dirname "$python")/eval-harness" ls > /dev/null
"$(dirname "$python")/eval-harness" validate --gates quick > /dev/null
"$python" -c "from eval_harness.gate.reports.html import _TEMPLATE; assert _TEMPLATE.is_file(), _TEMPLATE"
status=0
"$(dirname "$python")/sparsepo" validate --loss sparspo 2> error.txt || status=$?
test "$status" = 2
grep -q "did you mean sparsepo" error.txt
# The page's style and program are files of the package.
echo '{"schema_version":1,"step":1,"pair":0,"side":"chosen","prompt":"p","tokens":["a"],"token_ids":[1],"reward_mask":[1.0]}' > tokens.jsonl
sed 's/chosen/rejected/' tokens.jsonl > rejected.jsonl && cat rejected.jsonl >> tokens.jsonl
"$(dirname "$python")/sparsepo" view tokens.jsonl -o page.html
grep -q "IntersectionObserver" page.html
echo "wheel: 7 passed, 0 failed"
