# What tests of the command share: a folder $work of their own, and expect WORDS CONDITION, which counts
# in $failures how often the condition, a shell command, does not hold.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
expect() {
  if ! eval "$2"; then
    echo "FAILED: $1"
    failures=$((failures + 1))
  fi
}
